# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Whether a Deployment or DaemonSet is up as it is now written, and what its pods wait for where it isn't."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]
KINDS = ("Deployment", "DaemonSet")
STARTING = "it is being started"


def missing(workload: Object, pods: Iterable[Object], obstacle: Callable[[Object], str] = lambda pod: "") -> list[str]:
    """What is not there yet, a line each; empty when all pods of the newest specification are available.

    ``pods``: those of its namespace; others than its own are passed over. ``obstacle``: as of :func:`reason`.
    """
    status, spec = workload.get("status") or {}, workload["spec"]
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return ["its controller has not looked at it yet"]
    if workload["kind"] == "DaemonSet":
        wanted, new = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
        total, available = new, status.get("numberAvailable", 0)
    else:
        wanted, new = spec.get("replicas", 1), status.get("updatedReplicas", 0)
        total, available = status.get("replicas", 0), status.get("availableReplicas", 0)
    if new == total == available == wanted:
        return []
    lines = [line for pod in pods if selects(spec["selector"], pod) for line in _of_pod(pod, obstacle)]
    if not lines:
        lines = [text for kind in ("ReplicaFailure", "Progressing") if (text := _failed(workload, kind))]
    return lines or [f"{available} of {wanted} pods are available, {new} of them as it is now written"]


def hopeless(workload: Object) -> bool:
    """Whether its controller has given up (a Deployment's progressDeadlineSeconds are over)."""
    return any(
        each.get("type") == "Progressing" and each.get("reason") == "ProgressDeadlineExceeded"
        for each in (workload.get("status") or {}).get("conditions") or ()
    ) and (workload.get("status") or {}).get("observedGeneration") == workload["metadata"].get("generation")


def selects(selector: Object, pod: Object) -> bool:
    """Of a label selector that has matchLabels alone, as those of workloads do in practice."""
    labels = pod["metadata"].get("labels") or {}
    return bool((selector.get("matchLabels") or {}).items() <= labels.items())


def node_of(pod: Object) -> str:
    """The node that the pod is on, or that its DaemonSet made it for; empty where there is none."""
    if pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def reason(pod: Object, obstacle: Callable[[Object], str] = lambda pod: "") -> str:
    """Why the pod isn't ready, in Kubernetes' own words; empty when it is.

    ``obstacle`` is asked about a pod that has no container yet, which doesn't say itself what it waits for.
    """
    status = pod.get("status") or {}
    said = {each["type"]: each for each in status.get("conditions") or ()}
    if said.get("Ready", {}).get("status") == "True":
        return ""
    if said.get("PodScheduled", {}).get("status") == "False":
        return str(said["PodScheduled"].get("message") or "it waits for the scheduler")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state, last = container.get("state") or {}, (container.get("lastState") or {}).get("terminated")
        word, ended = state.get("waiting") or {}, state.get("terminated") or last
        if word.get("reason") in (None, "ContainerCreating", "PodInitializing") and not ended:
            continue
        if ended and ended.get("exitCode"):
            end = f"container {container['name']} ended with {ended['exitCode']} ({ended.get('reason', 'Error')})"
            return " ".join(filter(None, [end, (ended.get("message") or "").strip()]))
        if word.get("reason"):
            return f"container {container['name']}: {word['reason']}: {word.get('message', '')}".rstrip(": ")
    if status.get("reason"):  # the kubelet refused it
        return f"{status['reason']}: {status.get('message', '')}".rstrip(": ")
    if any("running" in (each.get("state") or {}) for each in status.get("containerStatuses") or ()):
        return "it runs, and its readiness probe has not succeeded"
    return obstacle(pod) or STARTING


def _of_pod(pod: Object, obstacle: Callable[[Object], str]) -> Iterator[str]:
    said = reason(pod, obstacle)
    if said and "deletionTimestamp" not in pod["metadata"]:
        node = node_of(pod)
        yield f"pod {pod['metadata']['name']}{f' on node {node}' if node else ''}: {said}"


def _failed(workload: Object, kind: str) -> str:
    for each in (workload.get("status") or {}).get("conditions") or ():
        if each.get("type") == kind and each.get("status") == ("True" if kind == "ReplicaFailure" else "False"):
            return str(each.get("message") or each.get("reason") or "")
    return ""
