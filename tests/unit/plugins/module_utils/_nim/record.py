# SPDX-License-Identifier: GPL-3.0-or-later
"""Records what a real cluster shows of a namespace's services, change by change, for tests that need no cluster.

    PYTHONPATH=.:collections python tests/unit/plugins/module_utils/_nim/record.py NAMESPACE FILE

Runs until it is interrupted. A line of the file is one change: when, which object, and the parts of it that are new;
`gone` is an object that is no more. What no rule looks at is left out.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS, connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._ops.wait import queries
from rehearsal.layout import Layout

Object = dict[str, Any]
SERVICE_NAME = "kubernetes.io/service-name"
METADATA = ("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp", "labels", "annotations")
OF_POD = ("nodeName", "containers", "volumes", "imagePullSecrets", "nodeSelector", "tolerations")
OF_POD_STATUS = ("phase", "reason", "message", "startTime", "conditions", "initContainerStatuses", "containerStatuses")
OF_CONTAINER = ("name", "image", "ready", "restartCount", "state", "lastState")
OF_EVENT = ("involvedObject", "reason", "message", "type", "count", "firstTimestamp", "lastTimestamp", "eventTime")


def beside(namespace: str) -> list[Query]:
    return [
        Query("v1", "Service", namespace),
        Query("discovery.k8s.io/v1", "EndpointSlice", namespace),
        Query("networking.k8s.io/v1", "Ingress", namespace),
        Query("networking.k8s.io/v1", "IngressClass", None),
        Query("v1", "Node", None),
    ]


def reduced(obj: Object) -> Object:
    metadata = {key: obj["metadata"][key] for key in METADATA if key in obj["metadata"]}
    metadata.get("annotations", {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    if owners := obj["metadata"].get("ownerReferences"):
        metadata["ownerReferences"] = [{"uid": owner["uid"], "kind": owner["kind"]} for owner in owners]
    if obj["kind"] in ("Deployment", "InferenceService"):
        metadata["managedFields"] = [
            {
                **{key: entry[key] for key in ("manager", "operation", "subresource", "time") if key in entry},
                "fieldsV1": {"f:spec": {}} if "f:spec" in entry.get("fieldsV1", {}) else {},
            }
            for entry in obj["metadata"].get("managedFields", ())
        ]
    kept = {"kind": obj["kind"], "metadata": metadata}
    if obj["kind"] == "Event":
        return {**kept, **{key: obj[key] for key in OF_EVENT if obj.get(key)}}
    kept.update({key: obj[key] for key in ("spec", "status", "endpoints", "ports") if key in obj})
    if obj["kind"] == "Pod":
        kept["spec"] = {key: obj["spec"][key] for key in OF_POD if key in obj["spec"]}
        status = {key: obj["status"][key] for key in OF_POD_STATUS if key in obj["status"]}
        for kind in ("initContainerStatuses", "containerStatuses"):
            if kind in status:
                status[kind] = [{key: one[key] for key in OF_CONTAINER if key in one} for one in status[kind]]
        kept["status"] = status
    if obj["kind"] == "ReplicaSet":
        kept["spec"] = {"replicas": obj["spec"].get("replicas")}
    if obj["kind"] == "EndpointSlice":
        metadata["labels"] = {SERVICE_NAME: metadata["labels"][SERVICE_NAME]}
        metadata.pop("annotations", None)
    if obj["kind"] == "Node":
        status = {key: obj["status"][key] for key in ("allocatable", "conditions")}
        for condition in status["conditions"]:
            condition.pop("lastHeartbeatTime", None)
        kept.update(spec=obj.get("spec", {}), status=status)
    return kept


def record(namespace: str, file: Path) -> None:
    params = dict.fromkeys(AUTH_ARGUMENTS) | {"kubeconfig": str(Layout.from_environment().kubeconfig)}
    watched = [*queries([namespace]), *beside(namespace)]
    kinds = dict.fromkeys(query.kind for query in watched)
    known: dict[str, Object] = {}
    with Mirror(connect(params), watched) as mirror, file.open("w") as lines:
        while True:
            mirror.wait(60)
            at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
            now = {
                f"{obj['kind']} {obj['metadata']['name']} {obj['metadata'].get('uid')}": reduced(obj)
                for kind in kinds
                for obj in mirror.objects(kind)
            }
            for key in [key for key in known if key not in now]:
                del known[key]
                lines.write(json.dumps({"at": at, "gone": key}) + "\n")
            for key, obj in now.items():
                news = {part: value for part, value in obj.items() if known.get(key, {}).get(part) != value}
                if news:
                    known[key] = obj
                    lines.write(json.dumps({"at": at, "object": key, **news}) + "\n")
            lines.flush()


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
