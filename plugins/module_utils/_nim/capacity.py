# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Where a pod would fit at this moment: the part of the scheduler's rules that can be known without a doubt.

What can't be (affinity between pods, spreading) counts as no room: better an update in place than one that gets stuck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from . import quantity

Object = Mapping[str, Any]

_OVER = ("Succeeded", "Failed")
_REPELLING = ("NoSchedule", "NoExecute")
_DEFAULT_SCHEDULER = "default-scheduler"


def candidates(pod: Object, nodes: Iterable[Object]) -> list[Object]:
    """The nodes that may take the pod, whatever runs on them now.

    :param pod: its ``spec``.
    """
    if _in_doubt(pod):
        return []
    return [node for node in nodes if _may_take(pod, node) and _fits(requests(pod), _allocatable(node))]


def room(pod: Object, nodes: Sequence[Object], pods: Iterable[Object]) -> str:
    """The name of a node with room for the pod now; empty when there is none.

    :param nodes: as `candidates` returned them; ``pods``: what runs in the cluster. One that is ending counts: it has
        its GPU until it is gone.
    """
    left = {node["metadata"]["name"]: _allocatable(node) for node in nodes}
    for other in pods:
        spec = other.get("spec", {})
        node = spec.get("nodeName")
        if node in left and other.get("status", {}).get("phase") not in _OVER:
            left[node].subtract(requests(spec))
    wanted = requests(pod)
    return next((name for name, free in left.items() if _fits(wanted, free)), "")


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


def _in_doubt(pod: Object) -> bool:
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


def _may_take(pod: Object, node: Object) -> bool:
    conditions = {c.get("type"): c.get("status") for c in node["status"].get("conditions") or ()}
    if conditions.get("Ready") != "True" or node.get("spec", {}).get("unschedulable"):
        return False
    if pod.get("nodeName") not in (None, "", node["metadata"]["name"]):
        return False
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod.get("nodeSelector") or {}).items()):
        return False
    rules = ((pod.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms = rules.get("nodeSelectorTerms") or ()
    if terms and not any(_matches(term, node) for term in terms):
        return False
    return not untolerated(pod, node)


def untolerated(pod: Object, node: Object) -> list[Object]:
    """The taints of the node that keep the pod away.

    :param pod: its ``spec``.
    """
    taints = [taint for taint in node.get("spec", {}).get("taints") or () if taint.get("effect") in _REPELLING]
    rules = pod.get("tolerations") or ()
    return [taint for taint in taints if not any(_tolerates(rule, taint) for rule in rules)]


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
