# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that is an object of the API server alone, whose kubelet is played by the test.

Others' pods don't come to it, and the cluster's own node, which other tests use, stays in service.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

TAINT = "gpuops.nim/played"
MARK = "gpuops.nim/cordoned"
LEASES = "kube-node-lease"
HEARTBEAT = 3  # seconds; the rehearsal gives a node up after 15

Kubectl = Callable[..., str]
Json = dict[str, Any]


@dataclass(frozen=True)
class PlayedNode:
    name: str
    _kubectl: Kubectl

    def report(self, gpus: int = 1, boot: str = "first") -> None:
        """What its kubelet says."""
        resources = {"cpu": "4", "memory": "8Gi", "pods": "10", "nvidia.com/gpu": str(gpus)}
        condition = {"type": "Ready", "status": "True", "reason": "Kubelet", "message": "so says the test"}
        status = {"capacity": resources, "allocatable": resources, "conditions": [condition]}
        status["nodeInfo"] = {"bootID": boot}
        self._kubectl("patch", "node", self.name, "--subresource=status", "-p", json.dumps({"status": status}))

    def cordon(self) -> tuple[bool, bool]:
        """Whether it takes no pods, and whether it has our mark."""
        found = json.loads(self._kubectl("get", "node", self.name, "-o", "json"))
        return found["spec"].get("unschedulable", False), MARK in found["metadata"].get("annotations", {})

    @property
    def pod(self) -> Json:
        """The specification of one that comes here, has a GPU and ends at once."""
        return {
            "nodeSelector": {"kubernetes.io/hostname": self.name},
            "tolerations": [{"operator": "Exists", "key": TAINT}],
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "model", "image": "none", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        }

    def deployment(self, namespace: str) -> Json:
        """One such pod."""
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "model", "namespace": namespace},
            "spec": {
                "selector": {"matchLabels": {"app": "model"}},
                "template": {"metadata": {"labels": {"app": "model"}}, "spec": self.pod},
            },
        }

    def pods(self, namespace: str) -> list[str]:
        """The names of those that are bound to it."""
        found = self._kubectl(
            "get", "pods", "-n", namespace, f"--field-selector=spec.nodeName={self.name}", "-o", "json"
        )
        return [pod["metadata"]["name"] for pod in json.loads(found)["items"]]


@contextlib.contextmanager
def playing(name: str, kubectl: Kubectl) -> Iterator[PlayedNode]:
    """It exists, ready and with one GPU, and its kubelet lives; afterwards it is gone."""
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name}}
    taint = {"key": TAINT, "value": name, "effect": "NoSchedule"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [taint]}}
    kubectl("apply", "-f", "-", stdin=json.dumps(node))
    played, ended = PlayedNode(name, kubectl), threading.Event()
    played.report()

    def live() -> None:
        # renewed as a kubelet does; without, the node is soon called unreachable, whatever was reported
        while True:
            renewed = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed}
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
            lease["metadata"] = {"name": name, "namespace": LEASES}
            kubectl("apply", "-f", "-", stdin=json.dumps(lease))
            if ended.wait(HEARTBEAT):
                return

    kubelet = threading.Thread(target=live)
    kubelet.start()
    try:
        yield played
    finally:
        ended.set()
        kubelet.join()
        kubectl("delete", "node", name)
        kubectl("delete", "lease", "-n", LEASES, name)
