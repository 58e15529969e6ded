import pytest

from distilray.config.plan import ClusterConfig
from distilray.errors import InputError
from distilray.operations.plan.machines import CPU, DEVICES, MACHINES, find_machine, price_of


def test_every_measured_share_of_the_peak_has_a_supported_precision_and_a_source():
    for device in DEVICES.values():
        assert all(device.peak(precision) and 0 < mfu < 1 for precision, mfu in device.mfu.items()), device.name
        assert bool(device.source) is bool(device.mfu)
    assert DEVICES["V100"].peak("bf16") is None
    # Nothing is projected for a CPU.
    assert set(DEVICES[CPU].mfu) == {
        precision for precision in ("fp32", "fp16", "bf16") if DEVICES[CPU].peak(precision)
    }


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
