# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Who offers the GPUs of the nodes to Kubernetes and who exports their metrics; whether each node offers all it has."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._kube import rollout
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing, KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._kube.obstacles import Obstacles
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import helm_release, is_ours
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim.states import condition, moment
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result

Object = dict[str, Any]
Clock = Callable[[], float]

OURS = "gpuops.nim"
_ROLE = ("gpuops.nim/role", "device_plugin")  # annotation of the pods of a chart that the role has installed
_HEARTBEAT = 20.0
_PROOF = 10.0  # seconds: a plugin that ends at once looks ready for a moment, and the node still offers the old one's
_SOCKETS = "/var/lib/kubelet/device-plugins"
_NVIDIA = re.compile(r"nvidia|gpushare|cgpu|hami")
_OPERATOR = ("ClusterPolicy", "GPUCluster")  # kinds of the GPU Operator that own what it runs
_LINES, _SHOWN = 50, 300  # of a log that are read, of its last line that are told

# what NVIDIA's plugin says when it finds no GPU, and what it means; the words of 0.14 to 0.20
_SIGNS = (
    (
        re.compile(
            r"Incompatible (?:strategy|platform) detected|Unsupported platform detected|ERROR_LIBRARY_NOT_FOUND"
            r"|only supported on NVML-based systems"
        ),
        "the plugin's pod does not run with NVIDIA's runtime: set a RuntimeClass whose handler the node has, or make "
        "nvidia the node's default runtime",
    ),
    (
        re.compile(r"Driver/library version mismatch"),
        "the driver on the node was updated while the old one is loaded: reboot the node",
    ),
    # it finds the driver's library where the node has it, whoever runs its pod, but no device
    (
        re.compile(r"Driver Not Loaded|ERROR_DRIVER_NOT_LOADED"),
        "the plugin's pod has no device of a driver: it does not run with NVIDIA's runtime (set a RuntimeClass whose "
        "handler the node has, or make nvidia the node's default runtime), or the node's driver is not loaded",
    ),
    (re.compile(r"No devices found"), "the plugin finds no GPU on the node"),
    (re.compile(r"marking device as unhealthy|XidCriticalError"), "a GPU of the node is broken (see its Xid)"),
)


@dataclass(frozen=True)
class Owner:
    """Who offers GPUs to the cluster; ``name``: gpuops.nim, gpu_operator, ack, dra or other.

    ``namespace`` and ``release``: of the DaemonSet, if it is one, and of Helm, if that brought it.
    """

    name: str
    evidence: str
    namespace: Optional[str] = None
    release: Optional[str] = None


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Look, and with ``wait_timeout`` wait until the nodes offer what is expected.

    :raises OpsError: they don't in time; names each node and its reason.
    """
    client = connect(params)
    sets = client.list("apps/v1", "DaemonSet").items
    who = owner(client, sets, params["resource"])
    watch = _Watch(client, params)
    timeout = 0 if check_mode else params["wait_timeout"]
    nodes = watch.wait(timeout, progress)
    data = {
        "owner": asdict(who) if who else None,
        "exporter": _exporter(sets),
        "nodes": nodes,
        "runtime_classes": _runtime_classes(client),
        "node_feature_discovery": client.serves("nfd.k8s-sigs.io/v1alpha1", "NodeFeature"),
        "service_monitors": client.serves("monitoring.coreos.com/v1", "ServiceMonitor"),
    }
    wrong = [f"node {node['name']}: {node['reason']}" for node in nodes if node["reason"]]
    if wrong and timeout:
        raise OpsError(f"Not as expected after {timeout} s (wait_timeout):\n" + "\n".join(wrong), data=data)
    return Result(False, data)


def owner(client: Client, sets: list[Object], resource: str) -> Optional[Owner]:
    """Who offers the resource; None when nobody does. Others come before us: there must never be two.

    ``sets``: the cluster's DaemonSets.
    """
    found = list(_owners(client, sets))
    for other in found:
        if other.name != OURS:
            return other
    if found:
        return found[0]
    for node in client.list("v1", "Node").items:
        amount = _amount(node, "allocatable", resource)  # the capacity outlives a plugin by five minutes
        if amount:
            name = node["metadata"]["name"]
            return Owner("other", f"node {name} has {amount} {resource}, and no plugin is seen that offers them")
    return None


def _owners(client: Client, sets: list[Object]) -> Iterator[Owner]:
    for policy in _list(client, "nvidia.com/v1", "ClusterPolicy"):
        yield Owner("gpu_operator", f"ClusterPolicy {policy['metadata']['name']}")
    if _exists(client, "resource.k8s.io/v1", "DeviceClass", "gpu.nvidia.com"):
        yield Owner("dra", "DeviceClass gpu.nvidia.com, of NVIDIA's DRA driver")
    for each in sets:
        meta, pod = each["metadata"], each["spec"]["template"]["spec"]
        title = f"DaemonSet {meta['namespace']}/{meta['name']}"
        release = helm_release(each)
        if meta["name"] == "ack-nvidia-device-plugin":
            yield Owner("ack", title, meta["namespace"], release)
        elif _is_plugin(meta["name"], pod):
            yield Owner(_maker(each), title, meta["namespace"], release)
    # before Kubernetes 1.32, ACK runs it as a static pod of each node
    for pod in client.list("v1", "Pod", labels="component=nvidia-device-plugin").items:
        if (pod["metadata"].get("annotations") or {}).get("kubernetes.io/config.source") == "file":
            yield Owner("ack", f"static pod {pod['metadata']['namespace']}/{pod['metadata']['name']}")


def _exporter(sets: list[Object]) -> Optional[Object]:
    """Who runs a DCGM exporter, with how many nodes it is meant for. As above, others come before us."""
    found = []
    for each in sets:
        meta, containers = each["metadata"], each["spec"]["template"]["spec"]["containers"]
        ack = meta["name"] == "ack-prometheus-gpu-exporter"
        if ack or any("dcgm-exporter" in container["image"] for container in containers):
            evidence = f"DaemonSet {meta['namespace']}/{meta['name']}"
            nodes = (each.get("status") or {}).get("desiredNumberScheduled", 0)
            found.append({"name": "ack" if ack else _maker(each), "evidence": evidence, "nodes": nodes})
    return min(found, key=lambda one: one["name"] == OURS, default=None)


def _maker(obj: Object) -> str:
    if any(owner["kind"] in _OPERATOR for owner in obj["metadata"].get("ownerReferences") or ()):
        return "gpu_operator"
    return OURS if _is_ours(obj) else "other"


def _is_ours(obj: Object) -> bool:
    key, value = _ROLE
    notes = obj["spec"]["template"].get("metadata", {}).get("annotations") or {}
    return is_ours(obj) or notes.get(key) == value


def _is_plugin(name: str, pod: Object) -> bool:
    paths = [((each.get("hostPath") or {}).get("path") or "").rstrip("/") for each in pod.get("volumes") or ()]
    texts = [name, *(container["image"] for container in pod["containers"])]
    return _SOCKETS in paths and any(_NVIDIA.search(text) for text in texts)


def _is_of(plugin: Object, pod: Object) -> bool:
    """Not by its selector: that of NVIDIA's chart fits GPU Feature Discovery, too."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return ("DaemonSet", plugin["metadata"]["name"]) in [(each["kind"], each["name"]) for each in owners]


def _mounts(container: Object) -> list[str]:
    return [each["mountPath"] for each in container.get("volumeMounts") or ()]


def _list(client: Client, api_version: str, kind: str) -> list[Object]:
    try:
        return client.list(api_version, kind).items
    except (KindMissing, Forbidden):
        return []


def _exists(client: Client, api_version: str, kind: str, name: str) -> bool:
    try:
        return client.get(api_version, kind, name) is not None
    except (KindMissing, Forbidden):
        return False


def _runtime_classes(client: Client) -> list[Object]:
    found = _list(client, "node.k8s.io/v1", "RuntimeClass")
    return [{"name": each["metadata"]["name"], "handler": each["handler"], "managed": is_ours(each)} for each in found]


def _amount(node: Object, key: str, resource: str) -> int:
    return int(((node.get("status") or {}).get(key) or {}).get(resource, 0))


class _Watch:
    """The nodes that offer the resource, or should."""

    def __init__(self, client: Client, params: Mapping[str, Any], clock: Clock = time.monotonic) -> None:
        self._client = client
        self._resource = str(params["resource"])
        self._expected = {name: _count(name, amount) for name, amount in (params["expected"] or {}).items()}
        self._namespace = params["plugin_namespace"]
        self._plugin = params["plugin_name"]
        self._clock = clock
        self._proven: dict[tuple[str, str], float] = {}  # pod, ready since: when that is long enough
        self._obstacles = Obstacles(client)

    def wait(self, timeout: float, progress: Progress) -> list[Object]:
        """Each node as it is when all are as expected, or when time is up."""
        queries = [Query("v1", "Node", None)]
        if self._plugin:
            queries += [Query("apps/v1", "DaemonSet", self._namespace), Query("v1", "Pod", self._namespace)]
        begun = self._clock()
        said: dict[str, str] = {}
        beat = begun + _HEARTBEAT
        with Mirror(self._client, queries) as mirror:
            listed = False
            while True:
                # the first look has to have seen everything
                times = [begun + timeout, beat, *(each for each in self._proven.values() if each > self._clock())]
                limit = min(times) if listed else begun + max(timeout, 30.0)
                listed = mirror.wait(max(0.0, limit - self._clock())) or listed
                now = self._clock()
                if not listed:
                    raise OpsError(mirror.trouble() or "The cluster has not answered.")
                plugin, pods = self._of_plugin(mirror)
                late, due = now - begun >= timeout, now >= beat
                if late or due:
                    self._obstacles.look(pods)
                nodes = self._judge(mirror.objects("Node"), plugin, pods)
                open_ = [node for node in nodes if node["reason"]]
                if not open_ or late:
                    self._explain(open_, pods)
                    return nodes
                beat = now + _HEARTBEAT if due else beat
                for node in open_:
                    if due or said.get(node["name"]) != node["reason"]:
                        said[node["name"]] = node["reason"]
                        progress(f"[node {node['name']}] {now - begun:.0f} s: {node['reason']}")

    def _of_plugin(self, mirror: Mirror) -> tuple[Optional[Object], list[Object]]:
        for each in mirror.objects("DaemonSet"):
            if each["metadata"]["name"] == self._plugin:
                pods = [pod for pod in mirror.objects("Pod") if _is_of(each, pod)]
                # one that is ending only where no other one is
                return each, sorted(pods, key=lambda pod: "deletionTimestamp" not in pod["metadata"])
        return None, []

    def _judge(self, nodes: Iterable[Object], plugin: Optional[Object], pods: Iterable[Object]) -> list[Object]:
        by_node = {rollout.node_of(pod): pod for pod in pods}
        missing = rollout.missing(plugin, pods, self._obstacles) if plugin else []
        rows, names = [], set()
        for node in nodes:
            name = node["metadata"]["name"]
            names.add(name)
            capacity, allocatable = (_amount(node, key, self._resource) for key in ("capacity", "allocatable"))
            wanted = self._expected.get(name)
            if wanted is None and not capacity and name not in by_node:
                continue
            reason = self._reason(wanted, capacity, allocatable, by_node.get(name))
            if not reason and name in by_node and missing:  # what the node offers may be the old pod's
                reason = missing[0]
            if not reason and plugin and name in by_node and self._is_young(plugin, by_node[name]):
                reason = f"pod {by_node[name]['metadata']['name']} has been ready for less than {_PROOF:.0f} s"
            rows.append(_row(name, capacity, allocatable, wanted, reason))
        for name in sorted(set(self._expected) - names):
            rows.append(_row(name, 0, 0, self._expected[name], "the cluster has no node of that name"))
        return rows

    def _is_young(self, plugin: Object, pod: Object) -> bool:
        """What minReadySeconds would see to; NVIDIA's chart has none."""
        ready = moment(condition(pod, "Ready").get("lastTransitionTime"))
        if not ready or plugin["spec"].get("minReadySeconds"):
            return False
        age = (datetime.now(timezone.utc) - ready).total_seconds()
        rest = min(max(0.0, _PROOF - age), _PROOF)  # whatever the difference of the clocks
        until = self._proven.setdefault((pod["metadata"]["name"], str(ready)), self._clock() + rest)
        return self._clock() < until

    def _reason(self, wanted: Optional[int], capacity: int, allocatable: int, pod: Optional[Object]) -> str:
        if wanted is None and not pod:
            return ""  # somebody else's business
        if pod and "deletionTimestamp" in pod["metadata"]:
            return f"the old pod {pod['metadata']['name']} is ending"
        if pod and (waits := rollout.reason(pod, self._obstacles)):
            return f"pod {pod['metadata']['name']}: {waits}"
        lost = "no pod of the plugin is there: look at the node's labels and taints" if self._plugin else ""
        if not pod and wanted and lost:
            return lost
        if allocatable == wanted or (wanted is None and allocatable and allocatable == capacity):
            return ""
        said = f"{allocatable} {self._resource} allocatable"
        if wanted is not None:
            said += f", {wanted} expected"
        if capacity > allocatable:
            said += f"; {capacity - allocatable} of {capacity} are unhealthy"
        return said

    def _explain(self, open_: Iterable[Object], pods: Iterable[Object]) -> None:
        """With what the plugin itself says, read only now: logs are big, and nobody asked before."""
        by_node = {rollout.node_of(pod): pod for pod in pods}
        for node in open_:
            pod = by_node.get(node["name"])
            if pod and (said := self._log(pod)):
                node["reason"] += f"; {said}"

    def _log(self, pod: Object) -> str:
        meta = pod["metadata"]
        containers = pod["spec"]["containers"]  # a chart's may have others before the plugin
        container = next((each for each in containers if _SOCKETS in _mounts(each)), containers[0])["name"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log"
        query = {"tailLines": str(_LINES), "container": container}
        last = ""
        for previous in ("false", "true"):  # one that fails has just started anew, and has said nothing yet
            try:
                text = self._client.request(
                    "GET", path, query={**query, "previous": previous}, retry=False
                ).body.decode(errors="replace")
            except KubeError:
                continue
            for sign, meaning in _SIGNS:
                if sign.search(text):
                    return meaning
            last = last or next(reversed(text.strip().splitlines()), "")
        return f"its last words: {last[:_SHOWN]}" if last else ""


def _count(name: str, amount: Any) -> int:
    try:
        return int(amount)
    except (TypeError, ValueError):
        raise OpsError(f"expected: {name}: {amount!r} is no number of GPUs.") from None


def _row(name: str, capacity: int, allocatable: int, expected: Optional[int], reason: str) -> Object:
    return {
        "name": name,
        "capacity": capacity,
        "allocatable": allocatable,
        "expected": expected,
        "reason": reason,
    }
