import pytest

from distilray.config.plan import ClusterConfig
from distilray.errors import InputError
from distilray.operations.plan.machines import CPU, DEVICES, MACHINES, find_machine, price_of


def test_every_share_of_the_peak_has_a_peak():
    for device in DEVICES.values():
        for precision, mfu in device.mfu.items():
            assert device.peak(precision), (device.name, precision)
            assert 0 < mfu < 1
        assert set(device.measured) <= set(device.mfu)


def test_every_precision_that_a_device_computes_in_has_a_share():
    for device in DEVICES.values():
        computes = {precision for precision in ("fp32", "fp16", "bf16") if device.peak(precision)}
        assert computes == set(device.mfu), device.name


def test_a_volta_has_no_bf16():
    assert DEVICES["V100"].peak("bf16") is None


def test_an_unmeasured_share_is_called_an_assumption():
    assert DEVICES["A10G"].source_of("bf16").startswith("assumed")
    assert DEVICES["A100"].source_of("fp32").startswith("assumed")
    assert DEVICES["A100"].source_of("bf16").startswith("MosaicBERT")


def test_machines_of_cpus_count_cores():
    for machine in MACHINES.values():
        assert (machine.num_devices == machine.cores) is (machine.device.name == CPU)


def test_an_unknown_machine_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"cluster\.machine: no machine 'p9' .* p4d\.24xlarge"):
        find_machine("p9", "cluster.machine")


def test_the_recipes_price_wins():
    machine = MACHINES["p4d.24xlarge"]
    assert price_of(machine, ClusterConfig()) == machine.price_per_hour
    assert price_of(machine, ClusterConfig(price_per_machine_hour=1.5, market="spot")) == 1.5


def test_an_unknown_spot_price_is_requested():
    with pytest.raises(InputError, match=r"set cluster\.price_per_machine_hour"):
        price_of(MACHINES["p4d.24xlarge"], ClusterConfig(market="spot"))
