"""`ray up cluster.yaml` with a simulated AWS (moto): launched instances, and no other created resources."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private import providers
from ray.autoscaler._private.aws import utils
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME

pytestmark = pytest.mark.slow

PROFILES = {"REPLACE_HEAD": "distilray-head", "REPLACE_WORKER": "distilray-worker"}
ACCOUNT = "123456789012"  # account of moto
IMAGE = "ami-04681a1dbd79675a5"  # any image known to moto
ADMIN = "203.0.113.0/24"


class Account:
    """AWS account with the prerequisites of cluster.yaml."""

    def __init__(self, region: str) -> None:
        self.ec2, self.iam = boto3.client("ec2", region_name=region), boto3.client("iam", region_name=region)
        for name in PROFILES.values():
            self.iam.create_instance_profile(InstanceProfileName=name)
        vpc = self.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
        self.group = self.ec2.create_security_group(GroupName="distilray", Description="x", VpcId=vpc)["GroupId"]
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ADMIN}]}
        inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": self.group}]}
        self.ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=[ssh, inside])

    def created(self) -> dict[str, Any]:
        """Return the resources that `ray up` would create by default."""
        return {
            "roles": [role["RoleName"] for role in self.iam.list_roles()["Roles"]],
            "profiles": [each["InstanceProfileName"] for each in self.iam.list_instance_profiles()["InstanceProfiles"]],
            "groups": {
                each["GroupId"]: each["IpPermissions"] for each in self.ec2.describe_security_groups()["SecurityGroups"]
            },
        }


@dataclass(frozen=True)
class Launched:
    """Completed cluster file, resources of the account before and after, and one instance per node type."""

    given: dict[str, Any]
    completed: dict[str, Any]
    account: Account
    before: dict[str, Any]
    after: dict[str, Any]
    instances: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def launched(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Launch the head and one node of each other type."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(home))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        text = (root / "cluster.yaml").read_text(encoding="utf-8")
        account = Account(yaml.safe_load(text)["provider"]["region"])
        given = yaml.safe_load(filled_in(text, account.group))
        before = account.created()
        config = _bootstrap_config(given, no_config_cache=True)
        provider = providers._get_node_provider(config["provider"], config["cluster_name"])
        instances = {}
        for name, node_type in config["available_node_types"].items():
            kind = NODE_KIND_HEAD if name == config["head_node_type"] else NODE_KIND_WORKER
            tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_NODE_NAME: f"ray-distilray-{kind}"}
            (instance_id,) = provider.create_node(node_type["node_config"], tags, 1)
            (reservation,) = account.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
            (instances[name],) = reservation["Instances"]
        yield Launched(given, config, account, before, account.created(), instances)
    for cache in (utils.client_cache, utils.resource_cache):
        cache.cache_clear()  # clients created for moto


def filled_in(text: str, group: str) -> str:
    """Return cluster.yaml with its placeholders filled in."""
    values = {**PROFILES, "REPLACE_ACCOUNT": ACCOUNT}
    text = re.sub(r"\bami-REPLACE\w*", IMAGE, text).replace("sg-REPLACE", group)
    text = re.sub(r"REPLACE_\w*DIGEST", "0" * 64, text)
    return re.sub(r"REPLACE\w*", lambda found: values.get(found[0], "filled-in"), text)


@pytest.mark.parametrize("node_type", ["head", "gpu8", "cpu_spot"])
def test_an_instance_has_the_settings_of_its_node_type(launched: Launched, node_type: str) -> None:
    given = launched.given["available_node_types"][node_type]["node_config"]
    instance = launched.instances[node_type]
    for name in ("InstanceType", "ImageId"):
        assert instance[name] == given[name]
    assert instance["IamInstanceProfile"]["Arn"] == given["IamInstanceProfile"]["Arn"]
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == given["SecurityGroupIds"]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance.get("InstanceLifecycle") == ("spot" if node_type == "cpu_spot" else None)
    (disk,) = [mapping["Ebs"]["VolumeId"] for mapping in instance["BlockDeviceMappings"]]
    (volume,) = launched.account.ec2.describe_volumes(VolumeIds=[disk])["Volumes"]
    (requested,) = [mapping["Ebs"] for mapping in given["BlockDeviceMappings"]]
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (requested["VolumeSize"], "gp3", True)


def test_zones_are_tried_in_the_order_of_the_file(launched: Launched) -> None:
    zones = {each["SubnetId"]: each["AvailabilityZone"] for each in launched.account.ec2.describe_subnets()["Subnets"]}
    for node_type in launched.completed["available_node_types"].values():
        tried = [zones[subnet] for subnet in node_type["node_config"]["SubnetIds"]]
        assert tried == launched.given["provider"]["availability_zone"].split(",")


def test_ray_creates_one_private_key_pair_and_no_role_profile_or_security_group(launched: Launched) -> None:
    assert launched.after == launched.before
    (pair,) = launched.account.ec2.describe_key_pairs()["KeyPairs"]
    assert {instance["KeyName"] for instance in launched.instances.values()} == {pair["KeyName"]}
    assert Path(launched.completed["auth"]["ssh_private_key"]).stat().st_mode & 0o077 == 0
