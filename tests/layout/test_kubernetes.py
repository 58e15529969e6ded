"""The manifests are valid for Kubernetes and KubeRay, and expose nothing unprotected."""

import json
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
from jsonschema.exceptions import ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource

from distilray.config.recipe import load_recipe
from distilray.config.serving import FillMaskAppConfig
from distilray.stages import STAGES

KUBERNETES = "1.37"
FILES = ("jobs/rayjob.yaml", "serve/rayservice.yaml")
COMPONENT = "app.kubernetes.io/component"
Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
MANIFESTS: dict[str, list[Manifest]] = {
    name: list(yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8"))) for name in FILES
}
EVERY = [pytest.param(one, id=f"{one['kind']} of {name}") for name, manifests in MANIFESTS.items() for one in manifests]


def one_of(kind: str, name: str) -> Manifest:
    [result] = [manifest for manifest in MANIFESTS[name] if manifest["kind"] == kind]
    return result


JOB_SPEC: Manifest = one_of("RayJob", FILES[0])["spec"]
SERVICE_SPEC: Manifest = one_of("RayService", FILES[1])["spec"]
CLUSTERS = {FILES[0]: JOB_SPEC["rayClusterSpec"], FILES[1]: SERVICE_SPEC["rayClusterConfig"]}


def groups(cluster: Manifest) -> Iterator[tuple[str, Manifest]]:
    yield "head", cluster["headGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group


PODS = [
    pytest.param(group["template"], id=f"{name} of {file}")
    for file, cluster in CLUSTERS.items()
    for name, group in groups(cluster)
]
HEADS = [pytest.param(cluster["headGroupSpec"], id=file) for file, cluster in CLUSTERS.items()]
POLICIES = [pytest.param(one_of("NetworkPolicy", file), id=file) for file in FILES]


# Schemas


@pytest.fixture(scope="module")
def kuberay() -> Registry:
    """Schemas of KubeRay, and of the Kubernetes types that they use."""
    own = json.loads((ROOT / "tests/layout/kuberay_schema.json").read_text(encoding="utf-8"))
    folder = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict"
    core = kubernetes_validate.utils.schema_contents(f"{folder}/_definitions.json", KUBERNETES)
    return Registry().with_resources([(one["$id"], Resource.from_contents(one)) for one in (own, core)])


def check(manifest: Manifest, kuberay: Registry) -> None:
    """Raise a ValidationError for an unknown key or a value of the wrong type."""
    if manifest["apiVersion"] == "ray.io/v1":
        schema = {"$ref": f"https://ray.io/v1#/$defs/{manifest['kind']}"}
        Draft202012Validator(schema, registry=kuberay).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", EVERY)
def test_a_manifest_matches_its_schema(manifest: Manifest, kuberay: Registry) -> None:
    check(manifest, kuberay)


@pytest.mark.parametrize(
    ("kind", "path", "key"),
    [
        ("RayJob", "spec", "shutdownAfterJobFinish"),
        ("RayJob", "spec/rayClusterSpec", "authOption"),
        ("RayJob", "spec/rayClusterSpec/authOptions", "moed"),
        ("RayJob", "spec/rayClusterSpec/autoscalerOptions/securityContext", "readOnlyRootFileSystem"),
        ("RayJob", "spec/rayClusterSpec/workerGroupSpecs/0", "maxReplica"),
        ("RayJob", "spec/rayClusterSpec/workerGroupSpecs/0/template/spec", "terminationGracePeriod"),
        ("RayJob", "spec/rayClusterSpec/headGroupSpec/template/spec/containers/0", "resource"),
        ("RayService", "spec", "serveConfig"),
        ("RayService", "spec/serveService/spec", "port"),
        ("RayService", "spec/upgradeStrategy", "kind"),
        ("RayService", "spec/rayClusterConfig/gcsFaultToleranceOptions/redisPassword/valueFrom", "secret"),
        ("NetworkPolicy", "spec/ingress/1", "port"),
        ("PodDisruptionBudget", "spec", "minAvailabel"),
    ],
)
def test_a_misspelled_key_is_rejected(kind: str, path: str, key: str, kuberay: Registry) -> None:
    manifest = deepcopy(one_of(kind, FILES[0] if kind == "RayJob" else FILES[1]))
    node: Any = manifest
    for step in path.split("/"):
        node = node[int(step)] if step.isdecimal() else node[step]
    node[key] = {}
    with pytest.raises(ValidationError, match=key):
        check(manifest, kuberay)


@pytest.mark.parametrize(
    ("key", "value"), [("submissionMode", "HttpMode"), ("ttlSecondsAfterFinished", "3600"), ("entrypoint", ["python"])]
)
def test_a_value_of_the_wrong_type_is_rejected(key: str, value: object, kuberay: Registry) -> None:
    manifest = deepcopy(one_of("RayJob", FILES[0]))
    manifest["spec"][key] = value
    with pytest.raises(ValidationError):
        check(manifest, kuberay)


# Pods


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_meets_the_restricted_standard_of_kubernetes(pod: Manifest) -> None:
    pod_context, [container] = pod["spec"]["securityContext"], pod["spec"]["containers"]
    assert pod_context["runAsNonRoot"]
    assert pod_context["runAsUser"] > 0
    assert pod_context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
    assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("cluster", [pytest.param(cluster, id=file) for file, cluster in CLUSTERS.items()])
def test_containers_added_by_the_operator_are_restricted_too(cluster: Manifest) -> None:
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert cluster["autoscalerOptions"]["securityContext"] == head["securityContext"]
    assert JOB_SPEC["submissionMode"] == "HTTPMode"  # SidecarMode would add a container without security context


@pytest.mark.parametrize("pod", PODS)
def test_resource_requests_equal_limits(pod: Manifest) -> None:
    resources = pod["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["limits"])


@pytest.mark.parametrize("pod", PODS)
def test_shared_memory_is_in_memory_and_limited(pod: Manifest) -> None:
    [mount] = [each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["mountPath"] == "/dev/shm"]
    [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    assert volume["emptyDir"]["medium"] == "Memory"
    memory = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) < int(memory.removesuffix("Gi"))


@pytest.mark.parametrize("pod", PODS)
def test_every_mount_has_its_volume(pod: Manifest) -> None:
    mounted = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert "/mnt/distilray" in {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}


@pytest.mark.parametrize("pod", PODS)
def test_an_image_has_the_digest_of_cluster_yaml(pod: Manifest) -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    known = {cluster["docker"]["image"], cluster["available_node_types"]["gpu8"]["docker"]["worker_image"]}
    assert {container["image"] for container in pod["spec"]["containers"]} <= known
    assert all("@sha256:REPLACE" in image for image in known)


@pytest.mark.parametrize("pod", PODS)
def test_only_pods_with_the_autoscaler_can_access_the_api_server(pod: Manifest) -> None:
    is_head = pod["spec"]["containers"][0]["name"] == "ray-head"
    assert pod["spec"].get("automountServiceAccountToken", True) is is_head


@pytest.mark.parametrize("pod", PODS)
def test_no_manifest_contains_a_secret(pod: Manifest) -> None:
    values = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    assert values["RAY_AUTH_MODE"] == "token"
    assert not [name for name in values if name.endswith(("_TOKEN", "_KEY", "_KEYS", "PASSWORD"))]


# Clusters


@pytest.mark.parametrize("cluster", [pytest.param(cluster, id=file) for file, cluster in CLUSTERS.items()])
def test_a_cluster_requires_its_token(cluster: Manifest) -> None:
    assert cluster["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("head", HEADS)
def test_the_head_runs_no_work(head: Manifest) -> None:
    assert head["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("head", HEADS)
def test_the_head_and_the_ray_client_are_not_exposed(head: Manifest) -> None:
    assert not {"enableIngress", "ingressOptions", "serviceType", "headService"} & set(head)
    assert 10001 not in {port["containerPort"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    assert SERVICE_SPEC["serveService"]["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize("cluster", [pytest.param(cluster, id=file) for file, cluster in CLUSTERS.items()])
def test_the_ray_version_is_that_of_the_lock(cluster: Manifest, root: Path) -> None:
    lock = (root / "requirements-runtime.lock").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']} " in lock


# The job


def test_the_job_runs_a_shipped_recipe_with_valid_overrides() -> None:
    program, *arguments = JOB_SPEC["entrypoint"].split("--recipe")
    assert program.split() == ["python", "-m", "jobs.distill"]
    recipe, *overrides = arguments[0].split()
    config = load_recipe(str(ROOT / recipe.removeprefix("/app/")), overrides, STAGES["distill"].config_class)
    assert config.run_dir.startswith("/mnt/distilray/")


def test_the_job_has_the_environment_of_a_submitted_job(root: Path) -> None:
    submitted = yaml.safe_load((root / "jobs/runtime_env.yaml").read_text(encoding="utf-8"))
    ours = yaml.safe_load(JOB_SPEC["runtimeEnvYAML"])
    RuntimeEnv(**ours)
    assert ours == {"env_vars": {**submitted["env_vars"], "PYTHONPATH": "/app:/app/platform"}}


def test_the_lifetime_of_the_job_and_its_cluster_is_limited() -> None:
    assert JOB_SPEC["shutdownAfterJobFinishes"] is True
    assert JOB_SPEC["ttlSecondsAfterFinished"] == 3600
    assert JOB_SPEC["activeDeadlineSeconds"] > 0
    assert JOB_SPEC["backoffLimit"] > 0


def test_the_worker_groups_match_cluster_yaml(root: Path) -> None:
    node_types = yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))["available_node_types"]
    for group in JOB_SPEC["rayClusterSpec"]["workerGroupSpecs"]:
        same = node_types[group["groupName"].replace("-", "_")]
        assert group["labels"] == same["labels"]
        assert (group["minReplicas"], group["maxReplicas"]) == (same["min_workers"], same["max_workers"])


def test_a_gpu_pod_uses_all_gpus_of_its_machine() -> None:
    [gpu8] = [group for group in JOB_SPEC["rayClusterSpec"]["workerGroupSpecs"] if group["labels"]["role"] == "train"]
    assert gpu8["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_a_gpu_pod_fits_common_machines_with_8_gpus() -> None:
    # The smallest is a2-highgpu-8g with 96 CPUs and 680 GB, some of which are reserved for the system.
    resources = dict(groups(JOB_SPEC["rayClusterSpec"]))["gpu8"]["template"]["spec"]["containers"][0]["resources"]
    assert int(resources["requests"]["cpu"]) <= 92
    assert int(resources["requests"]["memory"].removesuffix("Gi")) <= 600


def test_the_kueue_settings_are_valid(kuberay: Registry) -> None:
    text = (ROOT / FILES[0]).read_text(encoding="utf-8")
    text = re.sub(r"^  # (labels:|  kueue\.x-k8s\.io/)", r"  \1", text, flags=re.MULTILINE)
    text = re.sub(r": (?:true|0) # with Kueue: (false|1)$", r": \1", text, flags=re.MULTILINE)
    [job] = [each for each in yaml.safe_load_all(text) if each["kind"] == "RayJob"]
    check(job, kuberay)
    assert set(job["metadata"]["labels"]) == {"kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"}
    # Rules of Kueue's webhook for RayJobs, which uses `replicas`.
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    replicas = {group["groupName"]: group["replicas"] for group in cluster["workerGroupSpecs"]}
    assert replicas == {"gpu8": 1, "cpu-spot": 0}


@pytest.mark.parametrize("name", ["head", "gpu8", "cpu-spot"])
def test_a_pod_of_the_job_has_time_for_a_checkpoint(name: str) -> None:
    group = dict(groups(JOB_SPEC["rayClusterSpec"]))[name]
    assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= 120


# The service


def test_the_application_equals_the_config_file_except_for_model_and_min_replicas(root: Path) -> None:
    written = yaml.safe_load((root / "serve/config.yaml").read_text(encoding="utf-8"))
    ours = yaml.safe_load(SERVICE_SPEC["serveConfigV2"])
    [application] = ours["applications"]
    written["applications"][0]["args"]["model_dir"] = application["args"]["model_dir"]
    written["applications"][0]["deployments"][0]["autoscaling_config"]["min_replicas"] = 2
    assert ours == written


def test_the_application_and_its_arguments_are_valid() -> None:
    schema = ServeDeploySchema.parse_obj(yaml.safe_load(SERVICE_SPEC["serveConfigV2"]))
    FillMaskAppConfig(**schema.applications[0].args)


def test_there_are_enough_pods_for_all_replicas_during_an_update() -> None:
    [group] = SERVICE_SPEC["rayClusterConfig"]["workerGroupSpecs"]
    [application] = yaml.safe_load(SERVICE_SPEC["serveConfigV2"])["applications"]
    [deployment] = application["deployments"]
    replicas, surge = deployment["autoscaling_config"], deployment["max_surge_percent"]
    assert group["resources"]["CPU"] == str(application["args"]["num_cpus"])
    assert group["minReplicas"] == replicas["min_replicas"]
    assert group["maxReplicas"] >= replicas["max_replicas"] * (1 + surge / 100)


def test_a_disruption_leaves_at_least_one_replica() -> None:
    budget = one_of("PodDisruptionBudget", FILES[1])["spec"]
    [group] = SERVICE_SPEC["rayClusterConfig"]["workerGroupSpecs"]
    assert 0 < budget["minAvailable"] < group["minReplicas"]
    labels = {**group["template"]["metadata"]["labels"], "ray.io/node-type": "worker"}  # KubeRay adds the last label
    assert budget["selector"]["matchLabels"] == labels


def test_a_stopping_pod_finishes_its_requests() -> None:
    [group] = SERVICE_SPEC["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    delay = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    deadline = FillMaskAppConfig(model_dir="x").limits.deadline_s
    assert deadline < delay < pod["terminationGracePeriodSeconds"] == 60


def test_the_secrets_of_the_service_are_kubernetes_secrets() -> None:
    cluster = SERVICE_SPEC["rayClusterConfig"]
    assert "secretKeyRef" in cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]
    for _, group in groups(cluster):
        [container] = group["template"]["spec"]["containers"]
        [file] = [each["value"] for each in container["env"] if each["name"] == "DISTILRAY_API_KEYS_FILE"]
        [mount] = [each for each in container["volumeMounts"] if file.startswith(each["mountPath"] + "/")]
        [volume] = [each for each in group["template"]["spec"]["volumes"] if each["name"] == mount["name"]]
        assert "secret" in volume


def test_the_proxy_settings_match_cluster_yaml(root: Path) -> None:
    options = yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))["docker"]["run_options"]
    settings = dict(option.removeprefix("--env ").split("=") for option in options if "RAY_SERVE_" in option)
    assert settings
    for _, group in groups(SERVICE_SPEC["rayClusterConfig"]):
        env = {each["name"]: each["value"] for each in group["template"]["spec"]["containers"][0]["env"]}
        assert settings.items() <= env.items()


# The network


@pytest.mark.parametrize("file", FILES)
def test_a_network_policy_selects_exactly_the_pods_of_its_file(file: str) -> None:
    selected = one_of("NetworkPolicy", file)["spec"]["podSelector"]["matchLabels"]
    assert all(group["template"]["metadata"]["labels"] == selected for _, group in groups(CLUSTERS[file]))
    assert len({one_of("NetworkPolicy", each)["spec"]["podSelector"]["matchLabels"][COMPONENT] for each in FILES}) == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_network_policies_deny_by_default_in_both_directions(policy: Manifest) -> None:
    spec = policy["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    assert all(rule.get("from") for rule in spec["ingress"])
    assert all(rule.get("to") for rule in spec["egress"])


def admitted(policy: Manifest) -> dict[str, set[int]]:
    """Return the ports that a policy opens by namespace, except for pods of the cluster."""
    ports: dict[str, set[int]] = {}
    for rule in policy["spec"]["ingress"]:
        [peer] = rule["from"]
        if peer.get("podSelector") == policy["spec"]["podSelector"]:
            continue
        namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        ports[namespace] = {port["port"] for port in rule["ports"]}
    return ports


def test_the_ingress_reaches_only_the_service_and_only_the_operator_reaches_the_dashboard() -> None:
    metrics = {"monitoring": {8080}}
    assert admitted(one_of("NetworkPolicy", FILES[0])) == {"kuberay-operator": {8265}} | metrics
    assert (
        admitted(one_of("NetworkPolicy", FILES[1]))
        == {
            "ingress-nginx": {8000},
            "kuberay-operator": {8265, 8000},
        }
        | metrics
    )


def open_ports(policy: Manifest, address: str) -> set[tuple[str, int]]:
    """Return protocols and ports that pods can use at an address outside the cluster."""
    target, ports = ip_address(address), set()
    for rule in policy["spec"]["egress"]:
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            excluded = any(target in ip_network(network) for network in block.get("except", []))
            if target in ip_network(block["cidr"]) and not excluded:
                ports |= {(port["protocol"], port["port"]) for port in rule["ports"]}
    return ports


@pytest.mark.parametrize("policy", POLICIES)
def test_the_metadata_service_of_the_machine_is_unreachable(policy: Manifest) -> None:
    assert not open_ports(policy, "169.254.169.254")
    assert open_ports(policy, "203.0.113.7") == {("TCP", 443), ("TCP", 6443)}


@pytest.mark.parametrize("policy", POLICIES)
def test_pods_reach_the_dns_server_of_the_cluster_and_the_cache_of_their_node(policy: Manifest) -> None:
    dns = {("UDP", 53), ("TCP", 53)}
    assert open_ports(policy, "169.254.20.10") == dns
    [rule] = [rule for rule in policy["spec"]["egress"] if {"protocol": "UDP", "port": 53} in rule.get("ports", [])]
    [pods] = [peer["podSelector"]["matchExpressions"] for peer in rule["to"] if "podSelector" in peer]
    assert pods == [{"key": "k8s-app", "operator": "In", "values": ["kube-dns", "node-local-dns"]}]
