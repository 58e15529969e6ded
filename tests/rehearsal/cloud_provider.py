"""Node provider whose nodes are raylets on this machine. The autoscaler of the head imports it by its file name."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray._private.node
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

OBJECT_STORE_BYTES = 80_000_000


class Node(ray._private.node.Node):
    """Node that unpacks uploads to its own folder, as on its own machine.

    All nodes share one session folder. When a node first needs an upload, Ray deletes the unpacked one of another
    node, from which workers may be importing.
    """

    def __init__(self, parameters: RayParams, **options: Any) -> None:
        parameters.runtime_env_dir_name += f"-{parameters.env_vars['RAY_CLOUD_INSTANCE_ID']}"
        super().__init__(parameters, **options)


ray._private.node.Node = Node  # type: ignore[misc]


class Cloud(FakeMultiNodeProvider):
    """Cloud that launches a node type if the file `<answers>/<node type>` exists, or rejects it with its text."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._nodes[self._head_node_id]["tags"][TAG_RAY_USER_NODE_TYPE] = provider_config["head_node_type"]

    def create_node_with_resources_and_labels(
        self,
        node_config: Mapping[str, Any],
        tags: Mapping[str, str],
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        answer = Path(self.provider_config["answers"], tags[TAG_RAY_USER_NODE_TYPE])
        while not answer.exists():
            time.sleep(0.1)
        if refusal := answer.read_text():
            code, _, message = refusal.partition(": ")
            raise NodeLaunchException(code, message, None)
        resources = {**resources, "object_store_memory": OBJECT_STORE_BYTES}
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
