"""The manifests for Kubernetes are ones that Kubernetes and KubeRay take, and leave nothing open."""

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
EVERY = [pytest.param(one, id=f"{one['kind']} of {name}") for name, found in MANIFESTS.items() for one in found]


def one_of(kind: str, name: str) -> Manifest:
    [found] = [manifest for manifest in MANIFESTS[name] if manifest["kind"] == kind]
    return found


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


# The schemas


@pytest.fixture(scope="module")
def kuberay() -> Registry:
    """The schemas of KubeRay and of what it takes from Kubernetes."""
    own = json.loads((ROOT / "tests/layout/kuberay_schema.json").read_text(encoding="utf-8"))
    folder = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict"
    core = kubernetes_validate.utils.schema_contents(f"{folder}/_definitions.json", KUBERNETES)
    return Registry().with_resources([(one["$id"], Resource.from_contents(one)) for one in (own, core)])


def check(manifest: Manifest, kuberay: Registry) -> None:
    """Raises a ValidationError for a key that is unknown or a value of another type."""
    if manifest["apiVersion"] == "ray.io/v1":
        schema = {"$ref": f"https://ray.io/v1#/$defs/{manifest['kind']}"}
        Draft202012Validator(schema, registry=kuberay).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", EVERY)
def test_a_manifest_fits_its_schema(manifest: Manifest, kuberay: Registry) -> None:
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
def test_a_misspelt_key_fits_no_schema(kind: str, path: str, key: str, kuberay: Registry) -> None:
    manifest = deepcopy(one_of(kind, FILES[0] if kind == "RayJob" else FILES[1]))
    place: Any = manifest
    for step in path.split("/"):
        place = place[int(step)] if step.isdecimal() else place[step]
    place[key] = {}
    with pytest.raises(ValidationError, match=key):
        check(manifest, kuberay)


@pytest.mark.parametrize(
    ("key", "value"), [("submissionMode", "HttpMode"), ("ttlSecondsAfterFinished", "3600"), ("entrypoint", ["python"])]
)
def test_a_value_of_another_kind_fits_no_schema(key: str, value: object, kuberay: Registry) -> None:
    manifest = deepcopy(one_of("RayJob", FILES[0]))
    manifest["spec"][key] = value
    with pytest.raises(ValidationError):
        check(manifest, kuberay)


# What every pod is


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_meets_the_restricted_standard_of_kubernetes(pod: Manifest) -> None:
    whole, [container] = pod["spec"]["securityContext"], pod["spec"]["containers"]
    assert whole["runAsNonRoot"]
    assert whole["runAsUser"] > 0
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
    assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("cluster", [pytest.param(cluster, id=file) for file, cluster in CLUSTERS.items()])
def test_what_the_operator_adds_to_the_head_is_restricted_too(cluster: Manifest) -> None:
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert cluster["autoscalerOptions"]["securityContext"] == head["securityContext"]
    assert JOB_SPEC["submissionMode"] == "HTTPMode"  # the container of SidecarMode has no security context


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_gets_what_it_asks_for_and_no_more(pod: Manifest) -> None:
    resources = pod["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["limits"])


@pytest.mark.parametrize("pod", PODS)
def test_shared_memory_is_memory_and_bounded(pod: Manifest) -> None:
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
def test_an_image_is_named_by_digest_as_in_cluster_yaml(pod: Manifest) -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    known = {cluster["docker"]["image"], cluster["available_node_types"]["gpu8"]["docker"]["worker_image"]}
    assert {container["image"] for container in pod["spec"]["containers"]} <= known
    assert all("@sha256:REPLACE" in image for image in known)


@pytest.mark.parametrize("pod", PODS)
def test_only_the_pods_with_the_autoscaler_may_ask_the_api_server(pod: Manifest) -> None:
    is_head = pod["spec"]["containers"][0]["name"] == "ray-head"
    assert pod["spec"].get("automountServiceAccountToken", True) is is_head


@pytest.mark.parametrize("pod", PODS)
def test_no_secret_stands_in_the_text(pod: Manifest) -> None:
    values = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    assert values["RAY_AUTH_MODE"] == "token"
    assert not [name for name in values if name.endswith(("_TOKEN", "_KEY", "_KEYS", "PASSWORD"))]


# Clusters


@pytest.mark.parametrize("cluster", [pytest.param(cluster, id=file) for file, cluster in CLUSTERS.items()])
def test_a_cluster_asks_for_its_token(cluster: Manifest) -> None:
    assert cluster["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("head", HEADS)
def test_no_work_is_placed_on_the_head(head: Manifest) -> None:
    assert head["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("head", HEADS)
def test_nothing_publishes_the_head_or_the_ray_client(head: Manifest) -> None:
    assert not {"enableIngress", "ingressOptions", "serviceType", "headService"} & set(head)
    assert 10001 not in {port["containerPort"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    assert SERVICE_SPEC["serveService"]["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize("cluster", [pytest.param(cluster, id=file) for file, cluster in CLUSTERS.items()])
def test_the_version_of_ray_is_that_of_the_lock(cluster: Manifest, root: Path) -> None:
    lock = (root / "requirements-runtime.lock").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']} " in lock


# The job


def test_the_job_runs_a_shipped_recipe_with_overrides_that_it_knows() -> None:
    program, *arguments = JOB_SPEC["entrypoint"].split("--recipe")
    assert program.split() == ["python", "-m", "jobs.distill"]
    recipe, *overrides = arguments[0].split()
    config = load_recipe(str(ROOT / recipe.removeprefix("/app/")), overrides, STAGES["distill"].config_class)
    assert config.run_dir.startswith("/mnt/distilray/")


def test_the_environment_of_the_job_is_that_of_a_submitted_one(root: Path) -> None:
    submitted = yaml.safe_load((root / "jobs/runtime_env.yaml").read_text(encoding="utf-8"))
    ours = yaml.safe_load(JOB_SPEC["runtimeEnvYAML"])
    RuntimeEnv(**ours)
    assert ours == {"env_vars": {**submitted["env_vars"], "PYTHONPATH": "/app:/app/platform"}}


def test_a_job_ends_its_cluster_and_cannot_hold_it_for_ever() -> None:
    assert JOB_SPEC["shutdownAfterJobFinishes"] is True
    assert JOB_SPEC["ttlSecondsAfterFinished"] == 3600
    assert JOB_SPEC["activeDeadlineSeconds"] > 0
    assert JOB_SPEC["backoffLimit"] > 0


def test_machines_are_those_of_cluster_yaml(root: Path) -> None:
    node_types = yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))["available_node_types"]
    for group in JOB_SPEC["rayClusterSpec"]["workerGroupSpecs"]:
        same = node_types[group["groupName"].replace("-", "_")]
        assert group["labels"] == same["labels"]
        assert (group["minReplicas"], group["maxReplicas"]) == (same["min_workers"], same["max_workers"])


def test_a_pod_of_the_gpu_group_takes_all_gpus_of_its_machine() -> None:
    [gpu8] = [group for group in JOB_SPEC["rayClusterSpec"]["workerGroupSpecs"] if group["labels"]["role"] == "train"]
    assert gpu8["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_a_pod_of_the_gpu_group_fits_common_machines_of_8_gpus() -> None:
    # The smallest is a2-highgpu-8g: 96 CPUs and 680 GB, of which the system and its own pods take some.
    resources = dict(groups(JOB_SPEC["rayClusterSpec"]))["gpu8"]["template"]["spec"]["containers"][0]["resources"]
    assert int(resources["requests"]["cpu"]) <= 92
    assert int(resources["requests"]["memory"].removesuffix("Gi")) <= 600


def test_the_option_for_kueue_is_valid_and_meets_its_rules(kuberay: Registry) -> None:
    text = (ROOT / FILES[0]).read_text(encoding="utf-8")
    text = re.sub(r"^  # (labels:|  kueue\.x-k8s\.io/)", r"  \1", text, flags=re.MULTILINE)
    text = re.sub(r": (?:true|0) # with Kueue: (false|1)$", r": \1", text, flags=re.MULTILINE)
    [job] = [each for each in yaml.safe_load_all(text) if each["kind"] == "RayJob"]
    check(job, kuberay)
    assert set(job["metadata"]["labels"]) == {"kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"}
    # The rules of its webhook for RayJobs; it counts `replicas`.
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


def test_the_application_is_that_of_the_config_file_but_for_its_model_and_its_least_replicas(root: Path) -> None:
    written = yaml.safe_load((root / "serve/config.yaml").read_text(encoding="utf-8"))
    ours = yaml.safe_load(SERVICE_SPEC["serveConfigV2"])
    [application] = ours["applications"]
    written["applications"][0]["args"]["model_dir"] = application["args"]["model_dir"]
    written["applications"][0]["deployments"][0]["autoscaling_config"]["min_replicas"] = 2
    assert ours == written


def test_serve_takes_the_application_and_the_application_its_arguments() -> None:
    schema = ServeDeploySchema.parse_obj(yaml.safe_load(SERVICE_SPEC["serveConfigV2"]))
    FillMaskAppConfig(**schema.applications[0].args)


def test_there_is_a_pod_for_every_replica_and_for_those_of_an_update() -> None:
    [group] = SERVICE_SPEC["rayClusterConfig"]["workerGroupSpecs"]
    [application] = yaml.safe_load(SERVICE_SPEC["serveConfigV2"])["applications"]
    [deployment] = application["deployments"]
    replicas, surge = deployment["autoscaling_config"], deployment["max_surge_percent"]
    assert group["resources"]["CPU"] == str(application["args"]["num_cpus"])
    assert group["minReplicas"] == replicas["min_replicas"]
    assert group["maxReplicas"] >= replicas["max_replicas"] * (1 + surge / 100)


def test_a_replica_stays_while_another_pod_is_taken_away() -> None:
    budget = one_of("PodDisruptionBudget", FILES[1])["spec"]
    [group] = SERVICE_SPEC["rayClusterConfig"]["workerGroupSpecs"]
    assert 0 < budget["minAvailable"] < group["minReplicas"]
    labels = {**group["template"]["metadata"]["labels"], "ray.io/node-type": "worker"}  # KubeRay adds the last one
    assert budget["selector"]["matchLabels"] == labels


def test_a_pod_that_goes_answers_first() -> None:
    [group] = SERVICE_SPEC["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    waits = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    deadline = FillMaskAppConfig(model_dir="x").limits.deadline_s
    assert deadline < waits < pod["terminationGracePeriodSeconds"] == 60


def test_secrets_of_the_service_come_from_secrets() -> None:
    cluster = SERVICE_SPEC["rayClusterConfig"]
    assert "secretKeyRef" in cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]
    for _, group in groups(cluster):
        [container] = group["template"]["spec"]["containers"]
        [file] = [each["value"] for each in container["env"] if each["name"] == "DISTILRAY_API_KEYS_FILE"]
        [mount] = [each for each in container["volumeMounts"] if file.startswith(each["mountPath"] + "/")]
        [volume] = [each for each in group["template"]["spec"]["volumes"] if each["name"] == mount["name"]]
        assert "secret" in volume


def test_the_proxy_is_set_as_in_cluster_yaml(root: Path) -> None:
    options = yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))["docker"]["run_options"]
    wanted = dict(option.removeprefix("--env ").split("=") for option in options if "RAY_SERVE_" in option)
    assert wanted
    for _, group in groups(SERVICE_SPEC["rayClusterConfig"]):
        env = {each["name"]: each["value"] for each in group["template"]["spec"]["containers"][0]["env"]}
        assert wanted.items() <= env.items()


# The network


@pytest.mark.parametrize("file", FILES)
def test_the_policy_of_a_file_selects_every_pod_of_it_and_no_other(file: str) -> None:
    selected = one_of("NetworkPolicy", file)["spec"]["podSelector"]["matchLabels"]
    assert all(group["template"]["metadata"]["labels"] == selected for _, group in groups(CLUSTERS[file]))
    assert len({one_of("NetworkPolicy", each)["spec"]["podSelector"]["matchLabels"][COMPONENT] for each in FILES}) == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_not_admitted_is_denied_in_both_directions(policy: Manifest) -> None:
    spec = policy["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    assert all(rule.get("from") for rule in spec["ingress"])
    assert all(rule.get("to") for rule in spec["egress"])


def admitted(policy: Manifest) -> dict[str, set[int]]:
    """Ports by who may ask them, pods of the cluster aside."""
    found: dict[str, set[int]] = {}
    for rule in policy["spec"]["ingress"]:
        [peer] = rule["from"]
        if peer.get("podSelector") == policy["spec"]["podSelector"]:
            continue
        namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        found[namespace] = {port["port"] for port in rule["ports"]}
    return found


def test_the_service_alone_is_reached_from_the_ingress_and_the_dashboard_by_the_operator_alone() -> None:
    for_metrics = {"monitoring": {8080}}
    assert admitted(one_of("NetworkPolicy", FILES[0])) == {"kuberay-operator": {8265}} | for_metrics
    assert (
        admitted(one_of("NetworkPolicy", FILES[1]))
        == {
            "ingress-nginx": {8000},
            "kuberay-operator": {8265, 8000},
        }
        | for_metrics
    )


def open_ports(policy: Manifest, address: str) -> set[tuple[str, int]]:
    """Protocols and ports of an address outside of the cluster that pods may connect to."""
    target, found = ip_address(address), set()
    for rule in policy["spec"]["egress"]:
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            excluded = any(target in ip_network(network) for network in block.get("except", []))
            if target in ip_network(block["cidr"]) and not excluded:
                found |= {(port["protocol"], port["port"]) for port in rule["ports"]}
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_the_metadata_service_of_the_machine_is_out_of_reach(policy: Manifest) -> None:
    assert not open_ports(policy, "169.254.169.254")
    assert open_ports(policy, "203.0.113.7") == {("TCP", 443), ("TCP", 6443)}


@pytest.mark.parametrize("policy", POLICIES)
def test_pods_reach_the_name_server_of_the_cluster_and_the_cache_of_their_node(policy: Manifest) -> None:
    dns = {("UDP", 53), ("TCP", 53)}
    assert open_ports(policy, "169.254.20.10") == dns
    [rule] = [rule for rule in policy["spec"]["egress"] if {"protocol": "UDP", "port": 53} in rule.get("ports", [])]
    [pods] = [peer["podSelector"]["matchExpressions"] for peer in rule["to"] if "podSelector" in peer]
    assert pods == [{"key": "k8s-app", "operator": "In", "values": ["kube-dns", "node-local-dns"]}]
