# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects around a recorded fault, as a cluster would show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings, states
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

from .recorded import Recorded

Object = dict[str, Any]

NODE = "gpu-1"


@dataclass(frozen=True)
class Seen:
    """What `findings.diagnose` is given."""

    seen: states.Observed
    logs: Mapping[str, str]
    around: findings.Around

    def findings(self) -> Sequence[findings.Finding]:
        return findings.diagnose(self.seen, logs=self.logs, around=self.around)


def objects(fault: Recorded) -> Seen:
    service = scene.wanted()
    pod = _pod(service, fault)
    absent = bool(fault.status.get("absent"))
    isvc = scene.live_isvc(service, "False")
    _set(isvc, fault.isvc)
    deployment = scene.deployment(service, updatedReplicas=1, availableReplicas=0, unavailableReplicas=1)
    _set(deployment, fault.deployment)
    return Seen(
        states.Observed(
            isvc=isvc,
            deployment=None if absent else deployment,
            replicasets=() if absent else [scene.replicaset()],
            pods=() if absent else [pod],
            events=[scene.event(pod, *event) for event in fault.events],
        ),
        {pod["metadata"]["uid"]: fault.log} if fault.log else {},
        findings.Around(
            nodes={NODE: _node(fault.conditions)},
            node_events=[_node_event(*event) for event in fault.node_events],
        ),
    )


def _pod(service: Object, fault: Recorded) -> Object:
    if not fault.node:
        said = next(iter(fault.events), ("", ""))[1]
        return scene.pending_pod(service, 1, said)
    if fault.status.get("running"):
        return scene.pod(service, state=scene.RUNNING)
    container: Object = {"state": scene.waiting(*fault.waiting)} if fault.waiting else {}
    if fault.log or fault.exit_code != 1:
        ended = {"exitCode": fault.exit_code, "reason": fault.reason, "message": ""}
        if fault.reason == "StartError" and fault.waiting:
            ended["message"] = fault.waiting[1]
        container |= {"lastState": {"terminated": ended}, "restartCount": 3}
    pod = scene.pod(service, **container)
    pod["spec"]["nodeName"] = NODE
    pod["status"] |= {key: value for key, value in fault.status.items() if key in ("phase", "reason", "message")}
    return pod


def _set(obj: Object, conditions: Mapping[str, tuple[str, str]]) -> None:
    for kind, (reason, message) in conditions.items():
        told = scene.condition(kind, "False", reason=reason, message=message)
        kept = [one for one in obj["status"].get("conditions", ()) if one["type"] != kind]
        obj["status"]["conditions"] = [*kept, told]


def _node(conditions: Mapping[str, str]) -> Object:
    every = {"Ready": "True", "DiskPressure": "False", "MemoryPressure": "False", **conditions}
    amount = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8", "ephemeral-storage": "100Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
        "spec": {},
        "status": {
            "conditions": [scene.condition(kind, status) for kind, status in every.items()],
            "allocatable": amount,
            "capacity": amount,
        },
    }


def _node_event(reason: str, message: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{NODE}.{reason.lower()}", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": NODE, "uid": NODE},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": "2026-11-22T17:00:30Z",
    }
