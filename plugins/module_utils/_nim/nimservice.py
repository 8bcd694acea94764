# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Services of NVIDIA's NIM Operator (NIMService), put so that they are judged by the same rules as KServe's.

The operator makes a Deployment, or a StatefulSet, or an InferenceService, which is judged as such. Names and conditions
are those of NVIDIA/k8s-nim-operator, api/apps/v1alpha1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import states
from .states import REVISION, TEMPLATE_HASH, Object, Observed, Status, condition

API_VERSION = "apps.nvidia.com/v1alpha1"
KIND = "NIMService"
MADE_BY_OPERATOR = "app.kubernetes.io/managed-by=k8s-nim-operator"
APP_LABEL = "app"  # of its pods: the NIMService's name
_SET_HASH = "controller-revision-hash"  # what a StatefulSet's pods have in place of TEMPLATE_HASH


def image(service: Object) -> str:
    said = service.get("spec", {}).get("image") or {}
    return f"{said.get('repository', '')}:{said.get('tag', '')}".strip(":")


def observed(
    service: Object,
    workload: Object | None,
    replicasets: Sequence[Object],
    pods: Sequence[Object],
    events: Sequence[Object],
) -> Observed:
    """Return what `states` and `findings` judge. In place of the InferenceService stands one that is content with what
    the operator made.

    :param workload: the Deployment or StatefulSet of the service's name.
    """
    stand_in = {
        "metadata": {key: value for key, value in service["metadata"].items() if key not in ("labels", "annotations")},
        "spec": {"predictor": (workload or {}).get("spec", {}).get("template", {}).get("spec", {})},
        "status": {"conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "PredictorReady")]},
    }
    if workload is not None and workload.get("kind") == "StatefulSet":
        replicasets, pods = [_as_replicaset(workload)], [_as_replicas_pod(pod) for pod in pods]
    return Observed(stand_in, workload, replicasets, pods, events)


def status_of(service: Object, seen: Observed) -> Status:
    """Judge one NIMService: its pods, and where the operator says that it failed, its word."""
    told = said(service)
    if seen.deployment is None:
        failed = (service.get("status") or {}).get("state") == "Failed"
        words = f": {told}" if told else ""
        return Status("failed" if failed else "scheduling", f"the NIM Operator has not made the Deployment{words}")
    status = states.status_of(None, seen)
    wanted = service.get("spec", {}).get("image")
    if wanted and image(service) not in _images(seen.deployment):
        return replace(
            status,
            state="scheduling",
            ready=False,
            current=False,
            detail=f"the NIM Operator has not taken over the new image yet{f' ({told})' if told else ''}",
        )
    return status


def said(service: Object) -> str:
    """Return what the operator says of a service that is not ready: the condition that tells most."""
    for kind in ("Failed", "NIM_SERVICE_FAILED"):
        failed = condition(service, kind)
        if failed.get("status") == "True":
            return " ".join(str(failed[key]) for key in ("reason", "message") if failed.get(key))
    for kind in ("Ready", "NIM_SERVICE_READY"):
        ready = condition(service, kind)
        if ready.get("status") == "False":
            return " ".join(str(ready[key]) for key in ("reason", "message") if ready.get(key))
    return ""


def _images(workload: Object) -> list[str]:
    containers = workload.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
    return [str(container.get("image")) for container in containers]


def _as_replicaset(workload: Object) -> dict[str, Any]:
    meta = workload["metadata"]
    revision = (workload.get("status") or {}).get("updateRevision", "")
    return {
        "metadata": {
            "name": revision,
            "namespace": meta.get("namespace"),
            "creationTimestamp": meta.get("creationTimestamp"),
            "annotations": {REVISION: str(meta.get("generation", 1))},
            "labels": {TEMPLATE_HASH: revision},
            "ownerReferences": [{"uid": meta.get("uid")}],
        }
    }


def _as_replicas_pod(pod: Object) -> dict[str, Any]:
    labels = pod["metadata"].get("labels") or {}
    return {**pod, "metadata": {**pod["metadata"], "labels": {**labels, TEMPLATE_HASH: labels.get(_SET_HASH, "")}}}
