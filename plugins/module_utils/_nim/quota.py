# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What a ResourceQuota counts of a pod, and whether it has room for one more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from . import capacity, quantity

Object = dict[str, Any]
Amounts = Counter[str]  # in thousandths, as in `capacity`

_ALWAYS = ("NotBestEffort", "NotTerminating")  # scopes that every pod of ours is in


def refuses(rule: Object, pod: Mapping[str, Any], before: Iterable[Mapping[str, Any]] = ()) -> bool:
    """Whether the quota has no room for the pod now; ``before``: those that come first, and are not counted yet."""
    if not counts(rule, pod):
        return False
    added = of_pod(pod)
    for other in before:
        if counts(rule, other):
            added.update(of_pod(other))
    status = rule.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    return any(
        thousandths(used.get(name, "0")) + amount > thousandths(hard[name])
        for name, amount in added.items()
        if name in hard
    )


def of_pod(pod: Mapping[str, Any]) -> Amounts:
    """What a quota counts of a pod."""
    asked = capacity.requests(pod)
    most = capacity.requests(with_limits_only(pod))
    found: Amounts = Counter({"pods": 1000, "count/pods": 1000})
    for name, amount in asked.items():
        if name != "pods":
            found[f"requests.{name}"] = amount
            if name in ("cpu", "memory", "ephemeral-storage"):
                found[name] = amount
    for name, amount in most.items():
        if name != "pods":
            found[f"limits.{name}"] = amount
    return found


def with_limits_only(pod: Mapping[str, Any]) -> Object:
    found = {
        kind: [
            {**container, "resources": {"limits": (container.get("resources") or {}).get("limits") or {}}}
            for container in pod.get(kind) or ()
        ]
        for kind in ("initContainers", "containers")
    }
    return {**pod, **found}


def counts(rule: Object, pod: Mapping[str, Any]) -> bool:
    """Whether the quota counts such a pod; what can't be told counts as not."""
    spec = rule["spec"]
    if any(scope not in _ALWAYS for scope in spec.get("scopes") or ()):
        return False
    for each in (spec.get("scopeSelector") or {}).get("matchExpressions") or ():
        if each.get("scopeName") in _ALWAYS:
            continue
        if each.get("scopeName") != "PriorityClass":
            return False
        named, operator = pod.get("priorityClassName"), each.get("operator")
        among = named in (each.get("values") or ())
        holds = {"In": among, "NotIn": not among, "Exists": bool(named), "DoesNotExist": not named}
        if not holds.get(str(operator), False):
            return False
    return True


def thousandths(value: Any) -> int:
    return int(quantity.parse(value) * 1000)
