import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from serve.batcher import BatchReport
from serve.telemetry.metrics import INSTRUMENTS, RequestRecord, Telemetry

REQUEST = RequestRecord("id", "POST", "/score", "/score", 429, "Overloaded", 0.03, model="student")
BATCH = BatchReport(rows=3, tokens=40, queue_s=(0.002, 0.2), inference_s=0.03, queued_tokens=7)


class ClassesOfRay:
    """Stands for `ray.util.metrics`, as strict as it is."""

    def __init__(self):
        self.written, self.keys = [], {}

    def _class(self, method):
        def make(name, description="", *, boundaries=None, tag_keys=()):
            assert isinstance(tag_keys, tuple)
            assert boundaries is None or min(boundaries) > 0
            self.keys[name] = set(tag_keys)

            def write(value, tags):
                assert set(tags) == self.keys[name]
                assert all(isinstance(each, str) for each in tags.values())
                assert method != "inc" or value > 0
                self.written.append((name, value, tags))

            return type("Metric", (), {method: staticmethod(write)})()

        return make

    Counter = property(lambda self: self._class("inc"))
    Gauge = property(lambda self: self._class("set"))
    Histogram = property(lambda self: self._class("observe"))


def record_everything(telemetry):
    telemetry.model("student", revision="abc", dtype="float32")
    telemetry.batch(BATCH, "student")
    telemetry.record_request_start()
    telemetry.request(REQUEST)


def samples_of(telemetry):
    families = text_string_to_metric_families(telemetry.replica.expose("")[0].decode())
    return [sample for family in families for sample in family.samples]


@pytest.mark.parametrize("row", INSTRUMENTS.values(), ids=lambda row: row.name)
def test_a_row_of_the_table_is_a_metric_of_the_service(row):
    assert row.name.startswith("fill_mask_")
    assert row.name.endswith("_total") == (row.kind == "counter")
    assert bool(row.buckets) == (row.kind == "histogram")
    assert list(row.buckets) == sorted(set(row.buckets))
    assert "replica" not in row.labels


def test_every_instrument_is_recorded_in_the_replica_and_in_the_cluster():
    ray = ClassesOfRay()
    telemetry = Telemetry(replica="r1", cluster=ray)
    record_everything(telemetry)
    of_replica = {sample.name.removesuffix("_bucket") for sample in samples_of(telemetry)}
    assert set(INSTRUMENTS) <= of_replica
    assert {name for name, _, _ in ray.written} == {name.removesuffix("_total") for name in INSTRUMENTS}
    assert {tags["replica"] for _, _, tags in ray.written} == {"r1"}


def test_every_series_names_the_replica(telemetry):
    record_everything(telemetry)
    assert {sample.labels["replica"] for sample in samples_of(telemetry)} == {"r1"}


def test_the_process_is_measured(telemetry, value_of):
    assert value_of("process_resident_memory_bytes") > 1e6
    assert value_of("process_open_fds") > 0
    assert value_of("process_cpu_seconds_total") >= 0


def test_a_batch_is_recorded_with_the_wait_of_each_of_its_requests(telemetry, value_of):
    telemetry.batch(BATCH, "student")
    telemetry.batch(BATCH, "student")
    assert value_of("fill_mask_queue_seconds_count", model="student") == 4
    assert value_of("fill_mask_queue_seconds_sum") == pytest.approx(0.404)
    assert value_of("fill_mask_batch_rows_sum") == 6
    assert value_of("fill_mask_batch_tokens_sum") == value_of("fill_mask_tokens_total") == 80
    assert value_of("fill_mask_inference_seconds_count") == 2
    assert value_of("fill_mask_queue_tokens") == 7


def test_a_model_that_left_the_memory_is_shown_as_such(telemetry, value_of):
    labels = {"model": "small", "revision": "abc", "dtype": "float32"}
    telemetry.model("small", revision="abc", dtype="float32")
    assert value_of("fill_mask_model_info", **labels) == 1
    telemetry.model("small", revision="abc", dtype="float32", in_memory=False)
    assert value_of("fill_mask_model_info", **labels) == 0


def test_two_replicas_in_one_process_share_nothing_and_leave_the_global_registry_alone(telemetry, value_of):
    before = set(REGISTRY._names_to_collectors)
    other = Telemetry(replica="r2")
    record_everything(other)
    assert value_of("fill_mask_requests_total") is None
    assert set(REGISTRY._names_to_collectors) == before
