# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Free a node of the pods that use its GPUs before its driver or runtime changes, and give it back afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client, api_path
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Conflict, KubeError, NotFound, Unreachable
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, quantity
from ansible_collections.gpuops.nim.plugins.module_utils._nim.names import PREFIX
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result

Object = dict[str, Any]
# we cordoned the node, and nobody has given it back yet: a run that was cut short is resumed by the next. Its value is
# what the node offered then, which it has to offer again
CORDONED = PREFIX + "cordoned"
AGAIN = 5.0  # seconds until an eviction that a budget refused is tried again; kubectl's own pause
HEARTBEAT = 30.0
_MIRROR_POD = "kubernetes.io/config.mirror"


@dataclass
class _Node:
    """The node and what became of it so far; becomes the result, or the data of the error."""

    name: str
    live: Optional[Object]
    gpu_pods: list[str] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def cordoned(self) -> bool:
        return bool(self.live and self.live["spec"].get("unschedulable"))

    @property
    def ours(self) -> bool:
        return bool(self.live and CORDONED in (self.live["metadata"].get("annotations") or {}))

    @property
    def changed(self) -> bool:
        return bool(self.evicted) or any(change.changed for change in self.changes)

    @property
    def data(self) -> dict[str, Any]:
        return {
            "node": self.name,
            "exists": self.live is not None,
            "cordoned": self.cordoned,
            "cordoned_by_us": self.ours,
            "gpu_pods": self.gpu_pods,
            "evicted": self.evicted,
            "remaining": self.remaining,
        }

    @property
    def diff(self) -> list[dict[str, Any]]:
        shown = [change.diff for change in self.changes if change.changed]
        if self.evicted:
            header = {"before_header": f"pods on {self.name}", "after_header": f"pods on {self.name}"}
            shown.append({"before": {"evicted": []}, "after": {"evicted": self.evicted}, **header})
        return shown


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Drains ``params["node"]`` or gives it back.

    :raises OpsError: pods can't be evicted, or aren't gone in time; what was done is in the error's data.
    :raises KubeError: there is no way to the cluster.
    """
    client = connect(params)
    node = _Node(params["node"], client.get("v1", "Node", params["node"]))
    try:
        if node.live is None:
            pass
        elif params["state"] == "restored":
            _restore(client, node, params, check_mode, progress)
        else:
            _drain(client, node, params, check_mode, progress)
    except (KubeError, OpsError) as error:
        raise OpsError(str(error), data=node.data, changed=node.changed, diff=node.diff if diff else []) from None
    return Result(node.changed, node.data, node.diff if diff else [])


def _restore(client: Client, node: _Node, params: Mapping[str, Any], check_mode: bool, progress: Progress) -> None:
    if node.ours:
        if params["wait"] and not check_mode:
            _await(client, node, params, progress)
        _patch(client, node, None, None, check_mode)


def _patch(client: Client, node: _Node, unschedulable: Optional[bool], mark: Optional[str], check_mode: bool) -> None:
    before = node.live or {}
    changes = {"spec": {"unschedulable": unschedulable}, "metadata": {"annotations": {CORDONED: mark}}}
    after = client.patch(before, changes, dry_run=check_mode)
    node.changes.append(Change("Node", node.name, None, "changed", before, after))
    node.live = after


# -- giving back


def _offer(node: Object) -> Object:
    status = node.get("status") or {}
    gpus = {name: amount for name, amount in (status.get("allocatable") or {}).items() if _is_gpu(name)}
    return {"ready": _not_ready(node) == "", "allocatable": gpus}


def _not_ready(node: Object) -> str:
    for condition in (node.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready":
            said = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            return "" if condition["status"] == "True" else f"it is not ready ({said})"
    return "it is not ready (its kubelet has said nothing yet)"


def _missing(node: Object, before: Object, boot_id: str) -> list[str]:
    """What keeps it from being as it was. After a reboot its status is the old one until its kubelet has started."""
    status = node.get("status") or {}
    if boot_id and (status.get("nodeInfo") or {}).get("bootID") != boot_id:
        return ["its kubelet has not reported since the host was booted"]
    missing = [_not_ready(node)] if before.get("ready") and _not_ready(node) else []
    now = status.get("allocatable") or {}
    for name, amount in sorted((before.get("allocatable") or {}).items()):
        if quantity.parse(now.get(name, "0")) < quantity.parse(amount):
            missing.append(f"{now.get(name, '0')} of {amount} {name} are allocatable")
    return missing


def _await(client: Client, node: _Node, params: Mapping[str, Any], progress: Progress) -> None:
    """Until the node offers what it did when we cordoned it."""
    try:
        before = json.loads((node.live or {})["metadata"]["annotations"][CORDONED])
    except ValueError:
        before = None
    before = before if isinstance(before, dict) else {"ready": True}  # as an older release marked it
    begun = time.monotonic()
    end, beat = begun + params["timeout"], begun + HEARTBEAT
    listed, said = False, [""]
    with Mirror(client, [Query("v1", "Node", None, fields=f"metadata.name={node.name}")]) as mirror:
        while True:
            listed = mirror.wait(max(min(end, beat) - time.monotonic(), 0)) or listed
            missing = ["the cluster has not answered"]
            if listed:
                found = [each for each in mirror.objects("Node") if each["metadata"]["name"] == node.name]
                if not found:
                    raise OpsError(f"Node {node.name} is no longer there.")
                node.live = found[0]
                missing = _missing(found[0], before, params["boot_id"])
                if not missing:
                    return
            now = time.monotonic()
            if now >= end:
                trouble = mirror.trouble()
                raise OpsError(
                    f"Node {node.name} is not back after {params['timeout']} s (timeout): {'; '.join(missing)}."
                    f"{f' {trouble[0].upper()}{trouble[1:]}.' if trouble else ''} It stays cordoned. Run this again to "
                    "wait on, or give it back as it is with wait: false."
                )
            if missing != said or now >= beat:
                beat = now + HEARTBEAT if now >= beat else beat
                said = missing
                progress(f"node {node.name} ({now - begun:.0f} s): waiting, {'; '.join(missing)}")


# -- draining


def _drain(client: Client, node: _Node, params: Mapping[str, Any], check_mode: bool, progress: Progress) -> None:
    pods = client.list("v1", "Pod", fields=f"spec.nodeName={node.name},{capacity.NOT_OVER}").items
    pods = [pod for pod in pods if pod["spec"].get("nodeName") == node.name]
    node.gpu_pods = node.remaining = [_title(pod) for pod in pods if uses_gpu(pod)]
    if not params["drain"]:
        return
    going = [pod for pod in pods if _goes(pod, params["pods"])]
    _refuse(going, params["force"])
    if not node.cordoned:  # one that others cordoned stays theirs
        _patch(client, node, True, json.dumps(_offer(node.live or {}), sort_keys=True), check_mode)
        progress(f"node {node.name}: {'would be ' if check_mode else ''}cordoned")
    if check_mode:
        node.evicted = [_title(pod) for pod in going]
        node.remaining = []
    elif going:
        _Eviction(client, node, params, progress).finish()


def uses_gpu(pod: Mapping[str, Any]) -> bool:
    """Whether it asks for a GPU: an extended resource (of NVIDIA, or shared by somebody), or a claim to a device."""
    resources = [name for name, amount in capacity.requests(pod["spec"]).items() if amount]
    return bool(pod["spec"].get("resourceClaims")) or any(map(_is_gpu, resources))


def _is_gpu(resource: str) -> bool:
    return resource.startswith("nvidia.com/") or ("/" in resource and "gpu" in resource)


def _goes(pod: Object, which: str) -> bool:
    """Whether it has to go. A DaemonSet's pod would come back at once, and a static one is the kubelet's own."""
    return uses_gpu(pod) or (which == "all" and not _stays(pod))


def _stays(pod: Object) -> str:
    """Why evicting it would not free the node; empty where it would."""
    if _MIRROR_POD in (pod["metadata"].get("annotations") or {}):
        return "is a static pod of the kubelet"
    owner = _owner(pod)
    return (
        f"belongs to DaemonSet {owner.get('name')}, which would start it again" if _kind(owner) == "DaemonSet" else ""
    )


def _owner(pod: Object) -> Object:
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def _kind(owner: Object) -> str:
    return str(owner.get("kind") or "")


def _refuse(going: list[Object], force: bool) -> None:
    """Before anything is touched: what could not be brought back, or would not go."""
    wrong = [f"{_title(pod)} {_stays(pod)}: take it away from the node first." for pod in going if _stays(pod)]
    bare = [_title(pod) for pod in going if not _stays(pod) and not _owner(pod)]
    if bare and not force:
        wrong.append(
            f"No controller would start these pods again: {', '.join(bare)}. "
            "Delete them, or set force: true to lose them."
        )
    if wrong:
        raise OpsError("\n".join(wrong))


def _title(pod: Object) -> str:
    return f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"


class _Eviction:
    """Asks for evictions until no pod is left that has to go. Disruption budgets say when."""

    def __init__(self, client: Client, node: _Node, params: Mapping[str, Any], progress: Progress) -> None:
        self.client, self.node, self.progress = client, node, progress
        self.which, self.timeout, self.force = params["pods"], float(params["timeout"]), params["force"]
        self.due: dict[str, float] = {}  # by uid: when to ask (again); infinity once it has been granted
        self.refusals: dict[str, str] = {}  # by uid

    def finish(self) -> None:
        begun = time.monotonic()
        end, beat = begun + self.timeout, begun + HEARTBEAT
        query = Query("v1", "Pod", None, fields=f"spec.nodeName={self.node.name},{capacity.NOT_OVER}")
        with Mirror(self.client, [query]) as mirror:
            listed = False
            while True:
                now = time.monotonic()
                wake = min([end, beat, *(due for due in self.due.values() if due > now)])
                listed = mirror.wait(max(wake - now, 0)) or listed
                left = self._left(mirror) if listed else []
                if listed:
                    self.node.remaining = [_title(pod) for pod in left if uses_gpu(pod)]
                    if not left:
                        return
                    for pod in left:
                        self._ask(pod)
                now = time.monotonic()
                if now >= end:
                    raise OpsError(self._late(left, mirror.trouble()))
                if now >= beat:
                    beat = now + HEARTBEAT
                    self.progress(f"node {self.node.name} ({now - begun:.0f} s): {self._waiting(left)}")

    def _left(self, mirror: Mirror) -> list[Object]:
        """Those that came between our look and the cordon, too."""
        pods = [pod for pod in mirror.objects("Pod") if pod["spec"].get("nodeName") == self.node.name]
        return [pod for pod in pods if _goes(pod, self.which)]

    def _ask(self, pod: Object) -> None:
        meta = pod["metadata"]
        uid, now = meta["uid"], time.monotonic()
        if now < self.due.get(uid, 0):
            return
        if meta.get("deletionTimestamp"):
            self.due[uid] = float("inf")
            return
        _refuse([pod], self.force)
        if self._evict(pod):
            self.due[uid] = float("inf")
            self.refusals.pop(uid, None)
            self.node.evicted.append(_title(pod))
            self.progress(f"pod {_title(pod)}: evicted")
        else:
            self.due[uid] = now + AGAIN

    def _evict(self, pod: Object) -> bool:
        """False when it has to be asked for again."""
        meta = pod["metadata"]
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            # not another that has got its name by now
            "deleteOptions": {"preconditions": {"uid": meta["uid"]}},
        }
        path = f"{api_path('v1', 'Pod', meta['namespace'], meta['name'])}/eviction"
        try:
            self.client.request("POST", path, body=body, retry=False)
        except (NotFound, Conflict):  # it is gone; another may have its name
            return True
        except Unreachable as error:  # a budget says 429; the rest is an outage, which is waited out
            self._say_refused(pod, error)
            return False
        return True

    def _say_refused(self, pod: Object, error: Unreachable) -> None:
        uid, text = pod["metadata"]["uid"], _refusal(error)
        if self.refusals.get(uid) != text:
            self.refusals[uid] = text
            self.progress(f"pod {_title(pod)}: not yet, {text}")

    def _waiting(self, left: list[Object]) -> str:
        parts = [f"{_title(pod)} ({self.refusals.get(pod['metadata']['uid']) or 'is ending'})" for pod in left]
        return "waiting for " + ", ".join(parts)

    def _late(self, left: list[Object], trouble: Optional[str]) -> str:
        said = f"Node {self.node.name} is not free after {self.timeout:.0f} s (timeout): {self._waiting(left)}."
        more = f" {trouble[0].upper()}{trouble[1:]}." if trouble else ""
        return f"{said}{more} It stays cordoned; run this again to go on, or give it back with state: restored."


def _refusal(error: Unreachable) -> str:
    text = error.reason.replace(" (HTTP 429)", "").rstrip(".")
    return text[:1].lower() + text[1:]
