# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Options of the pod: where it may run, as whom, and what is laid over it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .. import patch
from ..names import CONTAINER
from .check import Check

_POD_SECURITY = {
    "appArmorProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seLinuxChangePolicy",
    "seLinuxOptions",
    "seccompProfile",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "sysctls",
    "windowsOptions",
}
_CONTAINER_SECURITY = {"allowPrivilegeEscalation", "capabilities", "privileged", "procMount", "readOnlyRootFilesystem"}
_SERVED_BY_PREDICTOR = {
    "minReplicas",
    "maxReplicas",
    "scaleMetric",
    "scaleTarget",
    "deploymentStrategy",
    "model",
    "autoScaling",
    "timeout",
}
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TOLERATION = ("key", "operator", "value", "effect", "tolerationSeconds")
_AFFINITY = ("nodeAffinity", "podAffinity", "podAntiAffinity")
_SPREAD = (
    "topologyKey",
    "maxSkew",
    "whenUnsatisfiable",
    "labelSelector",
    "matchLabelKeys",
    "minDomains",
    "nodeAffinityPolicy",
    "nodeTaintsPolicy",
)


def security_context(check: Check) -> dict[str, Any]:
    values = dict(check.params.get("security_context") or {})
    for key, value in list(values.items()):
        if key in _CONTAINER_SECURITY:
            check.bad(
                "security_context",
                f"{key} belongs to a container, not to the pod; use pod_patch: "
                f"{{containers: [{{name: {CONTAINER}, securityContext: {{{key}: …}}}}]}}",
            )
        elif key not in _POD_SECURITY:
            close = difflib.get_close_matches(str(key), _POD_SECURITY, 1)
            check.bad(
                "security_context",
                f"{key!r} is not a field of a pod's security context"
                + (f"; did you mean {close[0]}?" if close else ""),
            )
        elif key in ("runAsUser", "runAsGroup", "fsGroup"):
            if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)):
                check.bad(f"security_context.{key}", f"must be a number, is {value!r}")
            else:
                values[key] = int(value)
    return values


def tolerations(check: Check) -> tuple[Mapping[str, Any], ...]:
    found = []
    for number, item in enumerate(check.params.get("tolerations") or ()):
        where = f"tolerations[{number}]"
        read = _short_toleration(check, where, item) if isinstance(item, str) else item
        if not isinstance(read, Mapping):
            if read is not None:
                check.bad(where, f"must be a dictionary as in a pod, 'all' or 'key=value:effect', is {item!r}")
            continue
        if not check.only(where, read, _TOLERATION):
            continue
        if read.get("operator") not in (None, "Exists", "Equal"):
            check.bad(where, f"operator {read['operator']!r} is not known; Exists or Equal")
        if read.get("effect") not in (None, "", *_EFFECTS):
            check.bad(where, f"effect {read['effect']!r} is not known; {', '.join(_EFFECTS[:-1])} or {_EFFECTS[-1]}")
        if read.get("operator") == "Exists" and read.get("value"):
            check.bad(where, "operator Exists takes no value; leave it out or use Equal")
        if not read.get("key") and read.get("operator") != "Exists":
            check.bad(where, "without a key the operator must be Exists (it then tolerates every taint)")
        found.append(dict(read))
    return tuple(found)


def _short_toleration(check: Check, where: str, text: str) -> dict[str, str] | None:
    """Read ``all`` or ``key=value:effect,operator``, as arena writes it; ``kubectl taint``'s form is the same."""
    if text == "all":
        return {"operator": "Exists"}
    match = re.fullmatch(r"([^=:,]+)(?:=([^:,]*))?:([^,]+)(?:,(\w+))?", text)
    if not match:
        check.bad(
            where,
            f"{text!r} is not a toleration; 'all', 'key=value:effect' or 'key=value:effect,operator', for example "
            "'nvidia.com/gpu=true:NoSchedule' or 'nvidia.com/gpu:NoSchedule,Exists'",
        )
        return None
    key, value, effect, operator = match.groups()
    operator = operator or ("Equal" if value else "Exists")
    read = {"key": key, "operator": operator, "effect": effect}
    return {**read, "value": value} if value and operator != "Exists" else read


def affinity(check: Check, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the affinity as given, or that of ``affinity_policy`` among the pods with these ``labels``."""
    given = dict(check.params.get("affinity") or {})
    policy, constraint = check.params["affinity_policy"], check.params["affinity_constraint"]
    check.only("affinity", given, _AFFINITY)
    if policy == "none":
        return given
    if given:
        check.bad("affinity_policy", f"is {policy} beside affinity, which says it in full; leave it in one of them")
    kind = "podAntiAffinity" if policy == "spread" else "podAffinity"
    term = {"labelSelector": {"matchLabels": dict(labels)}, "topologyKey": "kubernetes.io/hostname"}
    if constraint == "required":
        if policy == "spread" and check.params["update_strategy"] == "surge":
            check.warnings.append(
                "affinity_constraint: required keeps every pod on a node of its own, so update_strategy surge needs "
                "one more node than there are replicas"
            )
        return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}}


def topology_spread(check: Check, labels: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """Return the constraints, with what is left out as it is most often meant."""
    found = []
    for number, given in enumerate(check.params.get("topology_spread_constraints") or ()):
        where = f"topology_spread_constraints[{number}]"
        if not check.only(where, given, _SPREAD):
            continue
        if not given.get("topologyKey"):
            check.bad(where, "needs topologyKey, the label that tells zones apart; for example kubernetes.io/hostname")
        if given.get("whenUnsatisfiable") not in (None, "DoNotSchedule", "ScheduleAnyway"):
            check.bad(
                where, f"whenUnsatisfiable {given['whenUnsatisfiable']!r} is not known; DoNotSchedule or ScheduleAnyway"
            )
        found.append(
            {
                "maxSkew": 1,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(labels)},
                **given,
            }
        )
    return tuple(found)


def pod_patch(check: Check, taken: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """``taken``: (option, path) of what other options mount."""
    value = dict(check.params.get("pod_patch") or {})
    for key in sorted(set(value) & {"spec", "metadata", "template"}):
        check.bad(
            "pod_patch",
            f"takes the fields of a pod's spec directly, without {key!r}"
            + ("; labels and annotations are options" if key == "metadata" else ""),
        )
    for key in sorted(set(value) & _SERVED_BY_PREDICTOR):
        check.bad("pod_patch", f"{key!r} is not a field of a pod; pod_patch changes the pod alone")
    try:
        patch.merge({}, value)
    except patch.PatchError as error:
        check.bad("pod_patch", str(error))
        return value
    options = {path: option for option, path in taken}
    for container in value.get("containers") or ():
        for mount in container.get("volumeMounts") or ():
            option = options.get(mount.get("mountPath"))
            if option and mount.get("$patch") != "delete" and "name" in mount:
                check.bad(
                    "pod_patch",
                    f"mounts {mount['name']} at {mount['mountPath']}, where {option} already is; use another path or "
                    f"leave {option.partition('.')[0].partition('[')[0]} out",
                )
    return value
