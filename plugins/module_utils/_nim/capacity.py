# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Where a pod would fit at this moment: the part of the scheduler's rules that can be known without a doubt.

What can't be (affinity between pods, spreading) counts as no room: better an update in place than one that gets stuck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from sys import intern
from typing import Any

from . import quantity

Object = Mapping[str, Any]

_OVER = ("Succeeded", "Failed")
NOT_OVER = ",".join(f"status.phase!={phase}" for phase in _OVER)  # a field selector of pods
_REPELLING = ("NoSchedule", "NoExecute")
_DEFAULT_SCHEDULER = "default-scheduler"
_ISVC_LABEL = "serving.kserve.io/inferenceservice"


def candidates(pod: Object, nodes: Iterable[Object]) -> list[Object]:
    """The nodes that may take the pod, whatever runs on them now.

    :param pod: its ``spec``.
    """
    if in_doubt(pod):
        return []
    return [node for node in nodes if not refusal(pod, node)]


def room(pod: Object, nodes: Sequence[Object], pods: Iterable[Object]) -> str:
    """The name of a node with room for the pod now; empty when there is none.

    :param nodes: as `candidates` returned them; ``pods``: what runs in the cluster. One that is ending counts: it has
        its GPU until it is gone.
    """
    return Room(nodes, pods).take(pod, nodes)


class Room:
    """What is free on nodes: what they offer, less what runs there, less what has been taken here."""

    def __init__(self, nodes: Iterable[Object], pods: Iterable[Object]) -> None:
        self._left = {node["metadata"]["name"]: _allocatable(node) for node in nodes}
        for other in pods:
            spec = other.get("spec", {})
            node = spec.get("nodeName")
            if node in self._left and other.get("status", {}).get("phase") not in _OVER:
                self._left[node].subtract(requests(spec))

    def free(self, node: Object, resource: str) -> int:
        """Whole pieces of the resource that are left; may be negative."""
        return self._left[node["metadata"]["name"]][resource] // 1000

    def take(self, pod: Object, nodes: Iterable[Object]) -> str:
        """Take the pod's room on the first of the nodes that has it, and return the node's name; empty if none has."""
        wanted = requests(pod)
        name = next((n for n in (node["metadata"]["name"] for node in nodes) if _fits(wanted, self._left[n])), "")
        if name:
            self._left[name].subtract(wanted)
        return name


def short_node(node: Object, images: Collection[str] = ()) -> dict[str, Any]:
    """The node without what nobody here asks for: of a large cluster, all of them fit into memory then.

    :param images: those to look for among the ones that the node has.
    """
    spec, status = node.get("spec", {}), node.get("status", {})
    labels = {intern(key): intern(value) for key, value in (node["metadata"].get("labels") or {}).items()}
    return {
        "metadata": {"name": node["metadata"]["name"], "labels": labels},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if spec.get(key)},
        "status": {
            "allocatable": status.get("allocatable") or {},
            "conditions": [{"type": each["type"], "status": each["status"]} for each in status.get("conditions") or ()],
            "images": [
                name for image in status.get("images") or () for name in image.get("names") or () if name in images
            ],
        },
    }


def short_pod(pod: Object) -> dict[str, Any]:
    """The pod without what has no bearing on the room it takes, or on whose it is."""
    meta, spec = pod["metadata"], pod.get("spec", {})
    short: dict[str, Any] = {"nodeName": spec.get("nodeName")}
    if spec.get("priority"):
        short["priority"] = spec["priority"]
    for kind in ("initContainers", "containers"):
        kept = [
            {key: each[key] for key in ("resources", "restartPolicy") if each.get(key)} for each in spec.get(kind) or ()
        ]
        if any(kept):
            short[kind] = kept
    return {
        "metadata": {
            "name": meta["name"],
            "namespace": meta.get("namespace"),
            "labels": {key: value for key, value in (meta.get("labels") or {}).items() if key == _ISVC_LABEL},
        },
        "spec": short,
    }


def requests(pod: Object) -> Counter[str]:
    """What the scheduler reserves for a pod, by resource; init containers run before the others, side cars beside."""
    steady: Counter[str] = Counter({"pods": _number(1)})
    peak: Counter[str] = Counter()
    for container in pod.get("initContainers") or ():
        wanted = _requests(container)
        if container.get("restartPolicy") == "Always":
            steady.update(wanted)
        else:
            peak |= wanted
    for container in pod.get("containers") or ():
        steady.update(_requests(container))
    return steady | peak


def _requests(container: Object) -> Counter[str]:
    resources = container.get("resources") or {}
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return Counter({name: _number(value) for name, value in asked.items() if value is not None})


def _allocatable(node: Object) -> Counter[str]:
    return Counter({name: _number(value) for name, value in (node["status"].get("allocatable") or {}).items()})


def _number(value: Any) -> int:
    """In thousandths, so that it is whole."""
    return int(quantity.parse(value) * Decimal(1000))


def _fits(wanted: Counter[str], free: Counter[str]) -> bool:
    return all(free[name] >= amount for name, amount in wanted.items())


def in_doubt(pod: Object) -> bool:
    """Whether the pod has rules that only the scheduler itself can judge."""
    affinity = pod.get("affinity") or {}
    among_pods = any(
        (affinity.get(kind) or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
        for kind in ("podAffinity", "podAntiAffinity")
    )
    strict = any(
        rule.get("whenUnsatisfiable") == "DoNotSchedule" for rule in pod.get("topologySpreadConstraints") or ()
    )
    return bool(
        among_pods or strict or pod.get("hostNetwork") or pod.get("schedulerName") not in (None, "", _DEFAULT_SCHEDULER)
    )


def refusal(pod: Object, node: Object) -> str:
    """Why the node may not take the pod, whatever runs on it, in a few words; empty if it may.

    :param pod: its ``spec``.
    """
    conditions = {c.get("type"): c.get("status") for c in node["status"].get("conditions") or ()}
    if conditions.get("Ready") != "True":
        return "not ready"
    if node.get("spec", {}).get("unschedulable"):
        return "cordoned"
    if pod.get("nodeName") not in (None, "", node["metadata"]["name"]):
        return "not the one that nodeName names"
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"without the label {key}={value}"
    rules = ((pod.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms = rules.get("nodeSelectorTerms") or ()
    if terms and not matches(terms, node):
        return "outside the node affinity"
    for taint in untolerated(pod, node):
        return f"with the taint {taint_text(taint)}"
    free = _allocatable(node)
    for name, amount in requests(pod).items():
        if free[name] < amount:
            return f"with too little {name} ({_text(free[name], name)} of {_text(amount, name)})"
    return ""


def taint_text(taint: Object) -> str:
    """As `kubectl taint` writes it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"


def _text(amount: int, resource: str) -> str:
    if resource in ("memory", "ephemeral-storage"):
        return f"{amount / 1000 / 2**30:.1f} GiB"
    return f"{amount / 1000:g}"


def untolerated(pod: Object, node: Object) -> list[Object]:
    """The taints of the node that keep the pod away.

    :param pod: its ``spec``.
    """
    taints = [taint for taint in node.get("spec", {}).get("taints") or () if taint.get("effect") in _REPELLING]
    rules = pod.get("tolerations") or ()
    return [taint for taint in taints if not any(_tolerates(rule, taint) for rule in rules)]


def matches(terms: Iterable[Object], node: Object) -> bool:
    """Whether one of the node selector terms fits the node."""
    return any(_matches(term, node) for term in terms)


def _matches(term: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    by_label, by_field = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not by_label and not by_field:
        return False
    return all(_holds(rule, labels) for rule in by_label) and all(_holds(rule, fields) for rule in by_field)


def _holds(rule: Object, values: Mapping[str, str]) -> bool:
    value, operator = values.get(rule["key"]), rule["operator"]
    wanted: list[str] = list(rule.get("values") or ())
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) == bool(operator == "Exists")
    if operator in ("In", "NotIn"):
        return (value in wanted) == bool(operator == "In")
    try:
        number, limit = int(str(value)), int(wanted[0])
    except (ValueError, IndexError):
        return False
    return number > limit if operator == "Gt" else number < limit


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return toleration.get("key") == taint.get("key") and (toleration.get("value") or "") == (taint.get("value") or "")
