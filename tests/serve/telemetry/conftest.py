import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.telemetry.metrics import Telemetry


@pytest.fixture
def telemetry():
    return Telemetry(replica="r1")


@pytest.fixture
def value_of(telemetry):
    """Function that returns the value of a series in `/metrics`, or None if it does not exist."""

    def find(name, **labels):
        body, _ = telemetry.replica.expose("")
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None

    return find
