"""The manifests are valid for Kubernetes and KubeRay, and expose nothing unprotected."""

import re
from collections.abc import Iterator
from copy import deepcopy
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate.utils
import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource

from distilray.config.recipe import load_recipe
from distilray.config.serving import FillMaskAppConfig
from distilray.stages import STAGES

KUBERNETES = "1.37"
JOB, SERVICE = FILES = ("jobs/rayjob.yaml", "serve/rayservice.yaml")
Manifest = dict[str, Any]
ROOT = Path(__file__).parents[2]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


MANIFESTS: dict[str, list[Manifest]] = {
    name: list(yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8"))) for name in FILES
}


def one_of(kind: str, name: str) -> Manifest:
    [result] = [manifest for manifest in MANIFESTS[name] if manifest["kind"] == kind]
    return result


JOB_SPEC: Manifest = one_of("RayJob", JOB)["spec"]
SERVICE_SPEC: Manifest = one_of("RayService", SERVICE)["spec"]
CLUSTERS = {JOB: JOB_SPEC["rayClusterSpec"], SERVICE: SERVICE_SPEC["rayClusterConfig"]}
[SERVICE_WORKERS] = CLUSTERS[SERVICE]["workerGroupSpecs"]
CLUSTER_YAML = read_yaml("cluster.yaml")


def groups(cluster: Manifest) -> dict[str, Manifest]:
    return {"head": cluster["headGroupSpec"], **{each["groupName"]: each for each in cluster["workerGroupSpecs"]}}


def environment(container: Manifest) -> dict[str, str | None]:
    return {each["name"]: each.get("value") for each in container["env"]}


each_pod = pytest.mark.parametrize(
    "pod",
    [
        pytest.param(group["template"]["spec"], id=f"{name} of {file}")
        for file, cluster in CLUSTERS.items()
        for name, group in groups(cluster).items()
    ],
)
each_cluster = pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
each_policy = pytest.mark.parametrize("policy", [one_of("NetworkPolicy", file) for file in FILES], ids=FILES)


# Schemas


TYPES = {"boolean", "integer", "number", "string"}
PACKAGES = {"core": "api.core.v1", "networking": "api.networking.v1", "meta": "apimachinery.pkg.apis.meta.v1"}


def expand(short: Any) -> Manifest:
    """Return the JSON schema of a type in `kuberay_schema.yaml`."""
    if isinstance(short, dict):
        fields = {name.rstrip("!"): expand(inner) for name, inner in short.items()}
        required = [name.rstrip("!") for name in short if name.endswith("!")]
        return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}
    if isinstance(short, list):
        return {"type": "array", "items": expand(short[0])}
    package, _, name = short.partition(".")
    if package in PACKAGES:
        return {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.{PACKAGES[package]}.{name}"}
    if package == "own":
        return {"$ref": f"#/$defs/{name}"}
    if short == "map":
        return {"type": "object", "additionalProperties": {"type": "string"}}
    types = short.split(" or ")
    return {"type": types} if TYPES.issuperset(types) else {"enum": short.split("|")}


@pytest.fixture(scope="module")
def kuberay() -> Registry:
    """Schemas of KubeRay, and of the Kubernetes types that they use."""
    types = {name: expand(short) for name, short in read_yaml("tests/layout/kuberay_schema.yaml").items()}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    own = {"$schema": dialect, "$id": "https://ray.io/v1", "$defs": types}
    folder = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict"
    core = kubernetes_validate.utils.schema_contents(f"{folder}/_definitions.json", KUBERNETES)
    return Registry().with_resources([(one["$id"], Resource.from_contents(one)) for one in (own, core)])


def errors(manifest: Manifest, kuberay: Registry) -> list[str]:
    """Return the path and the message of each unknown key and each value of the wrong type."""
    group, _, version = manifest["apiVersion"].partition("/")
    is_ray = group == "ray.io"
    uri = "https://ray.io/v1" if is_ray else "https://kubernetes.io/api/_definitions.json"
    name = manifest["kind"] if is_ray else f"io.k8s.api.{group.partition('.')[0]}.{version}.{manifest['kind']}"
    validator = Draft202012Validator({"$ref": f"{uri}#/$defs/{name}"}, registry=kuberay)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def sections(value: Any) -> list[Manifest]:
    """Return all mappings in a value."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return ([value] if isinstance(value, dict) else []) + [section for each in inner for section in sections(each)]


@pytest.mark.parametrize("name", FILES)
def test_the_manifests_match_their_schemas_which_reject_an_unknown_key_in_any_section(
    name: str, kuberay: Registry
) -> None:
    for manifest in deepcopy(MANIFESTS[name]):
        assert errors(manifest, kuberay) == []
        all_sections = sections(manifest)
        for section in all_sections:
            section["misspelled"] = {}
        assert sum("misspelled" in error for error in errors(manifest, kuberay)) == len(all_sections)


@pytest.mark.parametrize(
    ("key", "value"), [("submissionMode", "HttpMode"), ("ttlSecondsAfterFinished", "3600"), ("entrypoint", ["python"])]
)
def test_a_value_of_the_wrong_type_is_rejected(key: str, value: object, kuberay: Registry) -> None:
    [error] = errors({**one_of("RayJob", JOB), "spec": {**JOB_SPEC, key: value}}, kuberay)
    assert error.startswith(f"$.spec.{key}: ")


# Pods and clusters


@each_pod
def test_a_pod_meets_the_restricted_standard_of_kubernetes(pod: Manifest) -> None:
    context, [container] = pod["securityContext"], pod["containers"]
    assert context["runAsNonRoot"]
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]


@each_pod
def test_a_pod_requests_its_limits_and_has_limited_shared_memory(pod: Manifest) -> None:
    [container] = pod["containers"]
    limits = container["resources"]["limits"]
    assert container["resources"]["requests"] == limits
    assert {"cpu", "memory"} <= set(limits)
    [mount] = [each for each in container["volumeMounts"] if each["mountPath"] == "/dev/shm"]
    [volume] = [each for each in pod["volumes"] if each["name"] == mount["name"]]
    assert volume["emptyDir"]["medium"] == "Memory"
    assert int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) < int(limits["memory"].removesuffix("Gi"))


@each_pod
def test_every_mount_has_its_volume(pod: Manifest) -> None:
    mounts = pod["containers"][0]["volumeMounts"]
    assert {mount["name"] for mount in mounts} == {volume["name"] for volume in pod["volumes"]}
    assert "/mnt/distilray" in [mount["mountPath"] for mount in mounts]


@each_pod
def test_an_image_has_the_digest_of_cluster_yaml(pod: Manifest) -> None:
    known = {CLUSTER_YAML["docker"]["image"], CLUSTER_YAML["available_node_types"]["gpu8"]["docker"]["worker_image"]}
    assert pod["containers"][0]["image"] in known
    assert all("@sha256:REPLACE" in image for image in known)


@each_pod
def test_a_pod_contains_no_secret_and_only_the_autoscaler_can_access_the_api_server(pod: Manifest) -> None:
    [container] = pod["containers"]
    variables = environment(container)
    assert variables["RAY_AUTH_MODE"] == "token"
    assert not [name for name in variables if name.endswith(("_TOKEN", "_KEY", "_KEYS", "PASSWORD"))]
    assert pod.get("automountServiceAccountToken", True) is (container["name"] == "ray-head")


@each_cluster
def test_a_cluster_requires_its_token_and_does_not_expose_its_head(cluster: Manifest) -> None:
    head = cluster["headGroupSpec"]
    [container] = head["template"]["spec"]["containers"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert not {"enableIngress", "ingressOptions", "serviceType", "headService"} & set(head)
    assert 10001 not in {port["containerPort"] for port in container["ports"]}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert f"\nray=={cluster['rayVersion']} " in (ROOT / "requirements-runtime.lock").read_text(encoding="utf-8")


@each_cluster
def test_containers_added_by_the_operator_are_restricted_too(cluster: Manifest) -> None:
    [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert cluster["autoscalerOptions"]["securityContext"] == head["securityContext"]
    assert JOB_SPEC["submissionMode"] == "HTTPMode"  # SidecarMode would add a container without security context


# The job


def test_the_job_runs_a_shipped_recipe_with_valid_overrides() -> None:
    program, arguments = JOB_SPEC["entrypoint"].split("--recipe")
    assert program.split() == ["python", "-m", "jobs.distill"]
    recipe, *overrides = arguments.split()
    config = load_recipe(str(ROOT / recipe.removeprefix("/app/")), overrides, STAGES["distill"].config_class)
    assert config.run_dir.startswith("/mnt/distilray/")


def test_the_job_has_the_environment_of_a_submitted_job() -> None:
    ours = yaml.safe_load(JOB_SPEC["runtimeEnvYAML"])
    RuntimeEnv(**ours)
    submitted = read_yaml("jobs/runtime_env.yaml")["env_vars"]
    assert ours == {"env_vars": {**submitted, "PYTHONPATH": "/app:/app/platform"}}


def test_the_lifetime_of_the_job_and_its_cluster_is_limited() -> None:
    assert JOB_SPEC["shutdownAfterJobFinishes"] is True
    assert JOB_SPEC["ttlSecondsAfterFinished"] == 3600
    assert JOB_SPEC["activeDeadlineSeconds"] > 0
    assert JOB_SPEC["backoffLimit"] > 0


def test_the_worker_groups_match_cluster_yaml() -> None:
    for group in JOB_SPEC["rayClusterSpec"]["workerGroupSpecs"]:
        same = CLUSTER_YAML["available_node_types"][group["groupName"].replace("-", "_")]
        assert group["labels"] == same["labels"]
        assert (group["minReplicas"], group["maxReplicas"]) == (same["min_workers"], same["max_workers"])


def test_a_gpu_pod_uses_all_gpus_of_common_machines_and_fits_on_them() -> None:
    # The smallest is a2-highgpu-8g with 96 CPUs and 680 GB, some of which are reserved for the system.
    gpu8 = groups(CLUSTERS[JOB])["gpu8"]
    limits = gpu8["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert gpu8["labels"]["role"] == "train"
    assert limits["nvidia.com/gpu"] == 8
    assert int(limits["cpu"]) <= 92
    assert int(limits["memory"].removesuffix("Gi")) <= 600


def test_the_kueue_settings_are_valid(kuberay: Registry) -> None:
    text = (ROOT / JOB).read_text(encoding="utf-8")
    text = re.sub(r"^  # (labels:|  kueue\.x-k8s\.io/)", r"  \1", text, flags=re.MULTILINE)
    text = re.sub(r": (?:true|0) # with Kueue: (false|1)$", r": \1", text, flags=re.MULTILINE)
    [job] = [each for each in yaml.safe_load_all(text) if each["kind"] == "RayJob"]
    assert errors(job, kuberay) == []
    assert set(job["metadata"]["labels"]) == {"kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"}
    # Rules of Kueue's webhook for RayJobs, which uses `replicas`.
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    replicas = {group["groupName"]: group["replicas"] for group in cluster["workerGroupSpecs"]}
    assert replicas == {"gpu8": 1, "cpu-spot": 0}


def test_a_pod_of_the_job_has_time_for_a_checkpoint() -> None:
    seconds = [each["template"]["spec"]["terminationGracePeriodSeconds"] for each in groups(CLUSTERS[JOB]).values()]
    assert len(seconds) == 3
    assert min(seconds) >= 120


# The service


def test_the_application_equals_the_config_file_except_for_model_and_min_replicas() -> None:
    expected, ours = read_yaml("serve/config.yaml"), yaml.safe_load(SERVICE_SPEC["serveConfigV2"])
    FillMaskAppConfig(**ServeDeploySchema.parse_obj(ours).applications[0].args)
    expected["applications"][0]["args"]["model_dir"] = ours["applications"][0]["args"]["model_dir"]
    expected["applications"][0]["deployments"][0]["autoscaling_config"]["min_replicas"] = 2
    assert ours == expected


def test_there_are_enough_pods_for_all_replicas_during_an_update_or_a_disruption() -> None:
    [application] = yaml.safe_load(SERVICE_SPEC["serveConfigV2"])["applications"]
    [deployment] = application["deployments"]
    replicas, surge = deployment["autoscaling_config"], deployment["max_surge_percent"]
    assert SERVICE_WORKERS["resources"]["CPU"] == str(application["args"]["num_cpus"])
    assert SERVICE_WORKERS["minReplicas"] == replicas["min_replicas"]
    assert SERVICE_WORKERS["maxReplicas"] >= replicas["max_replicas"] * (1 + surge / 100)
    budget = one_of("PodDisruptionBudget", SERVICE)["spec"]
    assert 0 < budget["minAvailable"] < SERVICE_WORKERS["minReplicas"]
    labels = SERVICE_WORKERS["template"]["metadata"]["labels"] | {"ray.io/node-type": "worker"}  # added by KubeRay
    assert budget["selector"]["matchLabels"] == labels


def test_a_stopping_pod_finishes_its_requests() -> None:
    pod = SERVICE_WORKERS["template"]["spec"]
    delay = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert FillMaskAppConfig(model_dir="x").limits.deadline_s < delay < pod["terminationGracePeriodSeconds"] == 60


def test_the_service_has_the_proxy_settings_of_cluster_yaml_and_its_secrets_in_kubernetes() -> None:
    options = CLUSTER_YAML["docker"]["run_options"]
    settings = dict(option.removeprefix("--env ").split("=") for option in options if "RAY_SERVE_" in option)
    assert settings
    assert "secretKeyRef" in CLUSTERS[SERVICE]["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]
    for group in groups(CLUSTERS[SERVICE]).values():
        [container] = group["template"]["spec"]["containers"]
        assert settings.items() <= environment(container).items()
        file = environment(container)["DISTILRAY_API_KEYS_FILE"] or ""
        [mount] = [each for each in container["volumeMounts"] if file.startswith(each["mountPath"] + "/")]
        [volume] = [each for each in group["template"]["spec"]["volumes"] if each["name"] == mount["name"]]
        assert "secret" in volume


# The network


def selected(file: str) -> dict[str, str]:
    labels: dict[str, str] = one_of("NetworkPolicy", file)["spec"]["podSelector"]["matchLabels"]
    return labels


def test_a_network_policy_selects_exactly_the_pods_of_its_file() -> None:
    for file, cluster in CLUSTERS.items():
        assert all(each["template"]["metadata"]["labels"] == selected(file) for each in groups(cluster).values())
    assert len({selected(file)["app.kubernetes.io/component"] for file in FILES}) == 2


@each_policy
def test_network_policies_deny_by_default_in_both_directions(policy: Manifest) -> None:
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert all(rule.get("from") for rule in policy["spec"]["ingress"])
    assert all(rule.get("to") for rule in policy["spec"]["egress"])


def admitted(policy: Manifest) -> Iterator[tuple[str, set[int]]]:
    """Yield namespaces and the ports that a policy opens for them, except for pods of the cluster."""
    for rule in policy["spec"]["ingress"]:
        [peer] = rule["from"]
        if peer.get("podSelector") != policy["spec"]["podSelector"]:
            namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            yield namespace, {port["port"] for port in rule["ports"]}


def test_the_ingress_reaches_only_the_service_and_only_the_operator_reaches_the_dashboard() -> None:
    assert SERVICE_SPEC["serveService"]["spec"]["type"] == "ClusterIP"
    metrics = {"monitoring": {8080}}
    assert dict(admitted(one_of("NetworkPolicy", JOB))) == {"kuberay-operator": {8265}} | metrics
    service = {"ingress-nginx": {8000}, "kuberay-operator": {8265, 8000}}
    assert dict(admitted(one_of("NetworkPolicy", SERVICE))) == service | metrics


def open_ports(policy: Manifest, address: str) -> set[tuple[str, int]]:
    """Return protocols and ports that pods can use at an address outside the cluster."""
    target, ports = ip_address(address), set()
    for rule in policy["spec"]["egress"]:
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            excluded = any(target in ip_network(network) for network in block.get("except", []))
            if target in ip_network(block["cidr"]) and not excluded:
                ports |= {(port["protocol"], port["port"]) for port in rule["ports"]}
    return ports


@each_policy
def test_pods_reach_dns_and_the_internet_but_not_the_metadata_service_of_their_machine(policy: Manifest) -> None:
    assert open_ports(policy, "169.254.169.254") == set()
    assert open_ports(policy, "203.0.113.7") == {("TCP", 443), ("TCP", 6443)}
    assert open_ports(policy, "169.254.20.10") == {("UDP", 53), ("TCP", 53)}  # the cache of the node
    [rule] = [rule for rule in policy["spec"]["egress"] if {"protocol": "UDP", "port": 53} in rule.get("ports", [])]
    [pods] = [peer["podSelector"]["matchExpressions"] for peer in rule["to"] if "podSelector" in peer]
    assert pods == [{"key": "k8s-app", "operator": "In", "values": ["kube-dns", "node-local-dns"]}]
