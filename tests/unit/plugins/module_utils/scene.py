# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""A small world of Kubernetes objects, shaped as a real cluster shows them, for tests that judge services."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests, names, spec, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import SERVICE_ARGUMENTS

Object = dict[str, Any]
IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"


def options(**given: Any) -> Object:
    """The options of one service as the module hands them on: types done, defaults filled in."""
    params = {name: copy.deepcopy(argument.get("default")) for name, argument in SERVICE_ARGUMENTS.items()}
    return {**params, "name": "llama3-8b-instruct", "image": IMAGE, **given}


def wanted(**given: Any) -> Object:
    return manifests.inference_service(spec.read(options(**given)), "Standard")


def condition(kind: str, status: str = "True", **more: str) -> Object:
    return {"type": kind, "status": status, "lastTransitionTime": "2026-11-22T17:00:00Z", **more}


def live_isvc(isvc: Object, ready: str = "True") -> Object:
    live = copy.deepcopy(isvc)
    conditions = [condition(kind, ready) for kind in ("IngressReady", "PredictorReady", "Ready")]
    live["status"] = {"conditions": conditions, "url": "http://llama3-8b-instruct-default.example.com"}
    return live


def deployment(isvc: Object, revision: int = 1, generation: int = 1, **status: Any) -> Object:
    """As KServe makes it: with its environment variable, defaults of the API, quantities in their short form."""
    predictor = copy.deepcopy(isvc["spec"]["predictor"])
    pod = {k: v for k, v in predictor.items() if k not in ("minReplicas", "maxReplicas", "deploymentStrategy")}
    main = pod["containers"][0]
    main["env"] = [*main.get("env", []), {"name": "INFERENCE_SERVICE_NAME", "value": isvc["metadata"]["name"]}]
    main["terminationMessagePath"] = "/dev/termination-log"
    pod["dnsPolicy"] = "ClusterFirst"
    name = isvc["metadata"]["name"]
    return {
        "metadata": {
            "name": f"{name}-predictor",
            "namespace": "default",
            "uid": "deployment-uid",
            "generation": generation,
            "annotations": {states.REVISION: str(revision)},
            "labels": {manifests.ISVC_LABEL: name, "component": "predictor"},
        },
        "spec": {
            "replicas": predictor["minReplicas"],
            "strategy": predictor["deploymentStrategy"],
            "template": {
                "metadata": {
                    "labels": {"app": f"isvc.{name}-predictor", **isvc["metadata"].get("labels", {})},
                    "annotations": dict(isvc["metadata"]["annotations"]),
                },
                "spec": pod,
            },
        },
        "status": {
            "observedGeneration": generation,
            "replicas": 1,
            "updatedReplicas": 1,
            "availableReplicas": 1,
            **status,
        },
    }


def written(obj: Object, at: str) -> Object:
    """The object as the server notes it: when it, and with that what is wanted of it, was last written."""
    entries = [
        {"manager": "manager", "time": at},
        {"manager": "x", "subresource": "scale", "time": "2026-11-30T00:00:00Z"},
    ]
    return {**obj, "metadata": {**obj["metadata"], "managedFields": entries}}


def replicaset(revision: int = 1) -> Object:
    return {
        "metadata": {
            "name": f"rs-{revision}",
            "namespace": "default",
            "uid": f"rs-{revision}",
            "annotations": {states.REVISION: str(revision)},
            "labels": {states.TEMPLATE_HASH: f"hash{revision}", manifests.ISVC_LABEL: "llama3-8b-instruct"},
            "ownerReferences": [{"uid": "deployment-uid"}],
        }
    }


def pod(isvc: Object, revision: int = 1, name: str = "", **container: Any) -> Object:
    """A scheduled pod; ``container`` is the status of NIM's container (``state`` above all). Ready if it says so."""
    name = name or f"llama3-8b-instruct-predictor-hash{revision}-aaaaa"
    predictor = isvc["spec"]["predictor"]
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "creationTimestamp": "2026-11-22T17:00:00Z",
            "labels": {
                states.TEMPLATE_HASH: f"hash{revision}",
                manifests.ISVC_LABEL: isvc["metadata"]["name"],
                "component": "predictor",
            },
        },
        "spec": {
            "nodeName": "rehearsal",
            "containers": predictor["containers"],
            "imagePullSecrets": predictor.get("imagePullSecrets"),
        },
        "status": {
            "phase": "Running" if container.get("ready") else "Pending",
            "conditions": [
                condition("PodScheduled", lastTransitionTime="2026-11-22T17:00:01Z"),
                condition(
                    "Ready", "True" if container.get("ready") else "False", lastTransitionTime="2026-11-22T17:01:40Z"
                ),
            ],
            "containerStatuses": [
                {
                    "name": names.CONTAINER,
                    "image": predictor["containers"][0]["image"],
                    "restartCount": 0,
                    "ready": False,
                    **container,
                }
            ],
        },
    }


RUNNING = {"running": {"startedAt": "2026-11-22T17:00:15Z"}}


def ready_pod(isvc: Object, revision: int = 1, name: str = "") -> Object:
    return pod(isvc, revision, name, ready=True, state=RUNNING)


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def pending_pod(isvc: Object, revision: int, message: str) -> Object:
    """A pod that the scheduler can't place."""
    made = pod(isvc, revision)
    made["status"]["conditions"] = [condition("PodScheduled", "False", reason="Unschedulable", message=message)]
    made["status"]["containerStatuses"] = []
    del made["spec"]["nodeName"]
    return made


def event(of: Object, reason: str, message: str, at: str = "2026-11-22T17:00:10Z") -> Object:
    return {
        "metadata": {"name": f"{of['metadata']['name']}.{reason}", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": of["metadata"]["name"], "uid": of["metadata"]["uid"]},
        "reason": reason,
        "message": message,
        "firstTimestamp": at,
        "lastTimestamp": at,
    }


def observed(service: Object, **changes: Any) -> states.Observed:
    """A service in good order, with ``changes``."""
    whole: Object = {
        "isvc": live_isvc(service),
        "deployment": deployment(service),
        "replicasets": [replicaset()],
        "pods": [ready_pod(service)],
        "events": [],
    }
    return states.Observed(**{**whole, **changes})
