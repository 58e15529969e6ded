import socket
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from serve.app import build_app
from serve.ingress import available_port, base_url

CONFIG = yaml.safe_load(Path("serve/config.yaml").read_text())


def test_the_deploy_config_is_valid_for_serve():
    ServeDeploySchema.model_validate(CONFIG)


def test_the_deploy_config_builds_the_application_and_names_its_deployment():
    application = CONFIG["applications"][0]
    assert application["import_path"] == "serve.app:build_app"
    app = build_app(application["args"])
    assert [each["name"] for each in application["deployments"]] == [app._bound_deployment.name]


def test_the_timeout_of_the_deploy_config_is_behind_the_deadline_of_the_application():
    config = FillMaskAppConfig.model_validate(CONFIG["applications"][0]["args"])
    assert CONFIG["http_options"]["request_timeout_s"] > config.limits.deadline_s


def test_the_application_depends_on_its_arguments_alone():
    one, other = (build_app({"model_dir": "/nowhere", "num_cpus": 3})._bound_deployment for _ in range(2))
    assert one.init_args == other.init_args
    assert one.ray_actor_options["num_cpus"] == 3


@pytest.mark.parametrize("args", [{}, {"model_dir": "m", "x": 1}, {"model_dir": "m", "num_replicas": 0}])
def test_other_arguments_are_an_input_error(args):
    with pytest.raises(InputError, match="build_app"):
        build_app(args)


def test_a_taken_port_is_an_input_error_that_names_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}"):
            available_port("127.0.0.1", port)


def test_port_zero_claims_a_free_port():
    port = available_port("127.0.0.1", 0)
    assert available_port("127.0.0.1", port) == port > 0


def test_a_host_of_another_machine_is_an_input_error():
    with pytest.raises(InputError, match=r"192\.0\.2\.1"):
        available_port("192.0.2.1", 8000)


def test_an_ipv6_host_has_brackets_in_its_url():
    assert base_url("::1", 80) == "http://[::1]:80"


def test_the_number_of_replicas_alone_restarts_none():
    one, two = (build_app({"model_dir": "/m", "num_replicas": count})._bound_deployment for count in (1, 2))
    assert one.init_args == two.init_args
    assert (one.num_replicas, two.num_replicas) == (1, 2)


def test_a_replica_answers_what_it_cannot_take_itself_before_serve_does():
    deployment = build_app({"model_dir": "/m"})._bound_deployment
    limits = FillMaskAppConfig(model_dir="/m").limits
    assert deployment.max_ongoing_requests >= 4 * limits.max_concurrent_requests


def test_a_replica_that_stops_has_time_for_what_it_holds():
    limits = FillMaskAppConfig(model_dir="/m").limits
    in_config = CONFIG["applications"][0]["deployments"][0]
    for grace_s in (
        build_app({"model_dir": "/m"})._bound_deployment._deployment_config.graceful_shutdown_timeout_s,
        in_config["graceful_shutdown_timeout_s"],
    ):
        assert grace_s > limits.deadline_s


def test_one_replica_alone_is_replaced_only_after_the_new_one_is_ready():
    assert build_app({"model_dir": "/m"})._bound_deployment._deployment_config.max_surge_percent > 0
    assert CONFIG["applications"][0]["deployments"][0]["max_surge_percent"] > 0


def test_two_models_of_one_name_are_an_input_error():
    with pytest.raises(InputError, match="extra_models: student"):
        build_app({"model_dir": "/m", "extra_models": {"student": "/n"}})
