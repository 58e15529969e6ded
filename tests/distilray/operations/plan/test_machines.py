import pytest

from distilray.config.plan import ClusterConfig
from distilray.errors import InputError
from distilray.operations.plan.machines import CPU, DEVICES, MACHINES, find_machine, price_of


def test_every_precision_that_a_device_supports_has_a_share_of_the_peak():
    for device in DEVICES.values():
        supported = {precision for precision in ("fp32", "fp16", "bf16") if device.peak(precision)}
        assert set(device.mfu) == supported, device.name
        assert all(0 < mfu < 1 for mfu in device.mfu.values())
        assert set(device.measured) <= supported
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


def test_the_price_of_the_recipe_takes_precedence_and_an_unknown_spot_price_is_requested():
    machine = MACHINES["p4d.24xlarge"]
    assert price_of(machine, ClusterConfig()) == machine.price_per_hour
    assert price_of(machine, ClusterConfig(price_per_machine_hour=1.5, market="spot")) == 1.5
    with pytest.raises(InputError, match=r"set cluster\.price_per_machine_hour"):
        price_of(machine, ClusterConfig(market="spot"))
