"""Ray Serve application: its deployment, its replica and `serving`, with fakes of Ray Serve."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from serve import app
from serve.app import build_app
from serve.routes import create_api

CONFIG = yaml.safe_load(Path("serve/config.yaml").read_text())
APPLICATION = CONFIG["applications"][0]
DEPLOYMENT = APPLICATION["deployments"][0]


def deployment_of(**args):
    return build_app({"model_dir": "/m", **args})._bound_deployment


def test_the_deploy_config_is_valid_and_builds_the_application():
    ServeDeploySchema.model_validate(CONFIG)
    assert APPLICATION["import_path"] == "serve.app:build_app"
    deployment = build_app(APPLICATION["args"])._bound_deployment
    assert [each["name"] for each in APPLICATION["deployments"]] == [deployment.name]
    assert CONFIG["http_options"]["request_timeout_s"] > FillMaskAppConfig(**APPLICATION["args"]).limits.deadline_s


def test_a_replica_has_the_configured_resources_and_limits():
    deployment = deployment_of(num_cpus=3, num_replicas=2, limits={"max_concurrent_requests": 5000})
    assert (deployment.num_replicas, deployment.ray_actor_options["num_cpus"]) == (2, 3)
    environment = deployment.ray_actor_options["runtime_env"]["env_vars"]
    assert environment == {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.ingress:middlewares"}
    assert deployment.max_ongoing_requests > 5000  # the replica itself rejects the others
    limits = FillMaskAppConfig(model_dir="/m").limits
    assert deployment_of().max_ongoing_requests >= 4 * limits.max_concurrent_requests


def test_changing_only_the_number_of_replicas_restarts_none():
    one, two = (deployment_of(num_replicas=count) for count in (1, 2))
    assert one.init_args == two.init_args
    assert one.init_args != deployment_of(num_cpus=2).init_args


def test_a_replica_is_replaced_after_the_new_one_is_ready_and_may_finish_its_requests():
    limits, options = FillMaskAppConfig(model_dir="/m").limits, deployment_of()._deployment_config
    for values in (options.model_dump(), DEPLOYMENT):
        assert values["graceful_shutdown_timeout_s"] > limits.deadline_s
        assert values["max_surge_percent"] > 0
    assert options.health_check_timeout_s > app._HEALTH_TIMEOUT_S


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "model_dir: Field required"),
        ({"model_dir": "m", "x": 1}, "x: unknown key"),
        ({"model_dir": "m", "dtype": "auto"}, "dtype: unknown key; renamed to 'precision'"),
        ({"model_dir": "m", "limits": {"x": 1}}, r"limits\.x: Extra"),
        ({"model_dir": "m", "num_replicas": 0}, "num_replicas: "),
        ({"model_dir": "/m", "limits": {"max_items": 1001}}, r"limits\.max_items: "),
        ({"model_dir": "/m", "extra_models": {"student": "/n"}}, "extra_models: student is the name of the model"),
    ],
    ids=str,
)
def test_invalid_arguments_are_an_input_error(args, message):
    with pytest.raises(InputError, match=f"arguments of build_app: .*{message}"):
        build_app(args)


# Replica


@pytest.fixture
def replica(model_dir, monkeypatch):
    """Function that creates a replica in this process, and returns it with the options that it passes on."""
    passed = {}

    def multiplexed(**options):
        passed.update(options)
        return lambda load: load

    def recording_api(models, **options):
        passed.update(options)
        return create_api(models, **options)

    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r7"))
    monkeypatch.setattr(app.ray_serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(app.ray_serve, "multiplexed", multiplexed)
    monkeypatch.setattr(app, "ray_metrics", None)
    monkeypatch.setattr(app, "configure_json_logging", lambda: None)
    monkeypatch.setattr(app, "create_api", recording_api)
    monkeypatch.setattr(app.ingress, "install", lambda gateway: passed.update(gateway=gateway))

    def start(**values):
        deployment = build_app({"model_dir": model_dir, **values})._bound_deployment
        # The class behind it belongs to Serve's ingress and has a coroutine as constructor.
        return deployment.func_or_class.__mro__[1](*deployment.init_args), passed

    return start


@pytest.mark.parametrize(
    "values",
    [
        {"model_name": "mine", "precision": "fp32", "access_log": True, "max_loaded_extra_models": 1},
        {"model_name": "other", "precision": "bf16", "access_log": False, "max_loaded_extra_models": 4},
    ],
    ids=["one", "other"],
)
def test_a_replica_has_the_name_type_log_and_cache_of_the_configuration(replica, model_dir, monkeypatch, values):
    monkeypatch.setenv("DISTILRAY_API_KEYS", "a-key-of-this-test-alone")
    instance, passed = replica(**values, extra_models={"extra": model_dir}, limits={"deadline_s": 8.0})
    api = instance.__serve_build_asgi_app__()
    with TestClient(api, headers={"x-api-key": "a-key-of-this-test-alone"}) as client:
        info = client.get("/info").json()
        load_timeout_s = instance._models._load.__self__._load_timeout_s
        metrics = client.get("/metrics").text
        assert client.get("/info", headers={"x-api-key": "x"}).status_code == 401
    assert (info["model"], info["models"], info["dtype"]) == (
        values["model_name"],
        [values["model_name"], "extra"],
        {"fp32": "float32", "bf16": "bfloat16"}[values["precision"]],
    )
    assert (passed["access_log"], passed["sends_request_id"]) == (values["access_log"], False)
    assert passed["max_num_models_per_replica"] == values["max_loaded_extra_models"]
    assert passed["gateway"] is api.state.gateway
    assert api.state.gateway._log._access_log is values["access_log"]
    assert load_timeout_s == 4.0
    assert f'model="{values["model_name"]}",replica="r7"' in metrics


@pytest.mark.anyio
async def test_a_further_model_is_loaded_warmed_up_and_recorded(replica, model_dir):
    instance, _ = replica(extra_models={"extra": model_dir})
    service = await instance._models.service("extra")
    assert service.ready
    exposed = instance._telemetry.replica.expose("")[0].decode()
    assert 'fill_mask_model_info{dtype="float32",model="extra"' in exposed
    await instance.check_health()
    await service.close()
    await instance._models.close()


def test_a_replica_with_a_missing_further_model_fails_at_once(replica):
    with pytest.raises(InputError, match="/nowhere"):
        replica(extra_models={"extra": "/nowhere"})


# serving


@pytest.fixture
def ray_serve(monkeypatch):
    """Fake of a Ray session without Serve, which records the calls."""
    calls = {}
    monkeypatch.setattr(app, "ensure_capacity", lambda need, *, job: calls.update(need=need, job=job))
    monkeypatch.setattr(app.ray_serve, "status", lambda: SimpleNamespace(proxies=calls.get("proxies", {})))
    monkeypatch.setattr(app.ray_serve, "start", lambda **options: calls.update(options))
    monkeypatch.setattr(app.ray_serve, "run", lambda application, **options: calls.update(application=application))
    monkeypatch.setattr(app.ray_serve, "shutdown", lambda: calls.update(is_shut_down=True))
    return calls


def test_the_proxy_waits_longer_than_body_and_answer_may_take_together(ray_serve, model_dir, monkeypatch):
    folder = Path(model_dir)
    monkeypatch.chdir(folder.parent)
    values = {"extra_models": {"extra": folder.name}, "limits": {"body_timeout_s": 100.0, "deadline_s": 200.0}}
    config = FillMaskAppConfig.model_validate({"model_dir": folder.name, "num_replicas": 3, "num_cpus": 2, **values})
    with contextlib.suppress(KeyError), app.serving(config, host="127.0.0.1", port=0) as url:
        assert url == f"http://127.0.0.1:{ray_serve['http_options']['port']}"
        raise KeyError
    assert ray_serve["is_shut_down"]
    assert ray_serve["http_options"]["request_timeout_s"] > 300.0
    assert (ray_serve["need"].count, ray_serve["need"].bundle()["CPU"]) == (3, 2)
    (args,) = ray_serve["application"]._bound_deployment.init_args
    assert (args["model_dir"], args["extra_models"]) == (model_dir, {"extra": model_dir})


def test_a_cluster_that_already_serves_an_application_is_an_input_error(ray_serve, model_dir):
    ray_serve["proxies"] = {"node": "HEALTHY"}
    serving = app.serving(FillMaskAppConfig(model_dir=model_dir), port=0)
    with pytest.raises(InputError, match="already serves an application"), serving:
        pass
    assert "application" not in ray_serve
