# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Options that say how many replicas there are, and who decides it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .check import Check
from .volumes import Cache

_KNATIVE = ("rps", "concurrency")
_KSERVE = ("cpu", "memory")
_METRICS = ("ContainerResource", "External", "Object", "Pods", "Resource")
_BEHAVIOR = ("scaleDown", "scaleUp")


@dataclass(frozen=True)
class Scaling:
    """``metric`` and ``target`` are for KServe's own autoscaler; ``metrics`` and ``behavior`` for one of ours."""

    autoscaler_class: str
    least: int
    most: int | None
    metric: str | None = None
    target: int | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    behavior: Mapping[str, Any] | None = None


def scaling(check: Check, cache: Cache | None) -> Scaling:
    metric, target = _metric(check)
    metrics, behavior = _autoscaling(check, metric, target)
    derived = "external" if metrics else "hpa" if metric in _KSERVE else "none"
    scaler = str(check.params.get("autoscaler_class") or derived)
    if metrics and scaler != "external":
        given = "autoscaling" if check.params.get("autoscaling") else f"scale_metric {metric}"
        check.bad(
            "autoscaler_class",
            f"is {scaler}, but {given} makes a HorizontalPodAutoscaler beside KServe, which needs external; leave it "
            "out",
        )
    elif metric in _KSERVE and scaler != "hpa":
        check.bad("autoscaler_class", f"is {scaler}, but scale_metric {metric} is for hpa; leave one of them out")
    least, most = check.number("min_replicas", 0), check.params.get("max_replicas")
    if least == 0 and scaler != "keda":
        check.bad(
            "min_replicas",
            (
                f"is 0, but with autoscaler_class {scaler} nothing would start it again; 1 or more, "
                "or autoscaler_class: keda"
            ),
        )
    if metrics and most is None:
        check.bad("max_replicas", "is missing; the autoscaler must know how far it may go")
    elif most is not None and most < least:
        check.bad("max_replicas", f"is {most}, less than min_replicas ({least})")
    elif most is not None and most > least and scaler == "none":
        check.bad(
            "max_replicas",
            (
                f"is {most}, but autoscaler_class none keeps min_replicas ({least}); set scale_metric, autoscaling, or "
                "autoscaler_class: hpa, external or keda"
            ),
        )
    if cache and max(least, most or 0) > 1 and cache.size and not {"ReadWriteMany"} & set(cache.access_modes):
        check.warnings.append(
            f"cache.access_modes: {', '.join(cache.access_modes)} can be mounted on one node "
            "only; several replicas on several nodes need ReadWriteMany"
        )
    if metric not in _KSERVE:
        return Scaling(scaler, least, most, metrics=metrics, behavior=behavior)
    return Scaling(scaler, least, most, metric, None if target is None else int(target))


def _metric(check: Check) -> tuple[str | None, float | None]:
    raw, target = str(check.params.get("scale_metric") or ""), check.params.get("scale_target")
    metric = raw.lower() if raw.lower() in (*_KNATIVE, *_KSERVE) else raw
    if metric in _KNATIVE:
        check.bad(
            "scale_metric",
            f"{metric} is counted by Knative, which is not used here; name a metric of the pods, such as "
            "num_requests_waiting, or cpu or memory",
        )
    elif metric and not re.fullmatch(r"[A-Za-z_:][\w:./-]*", metric):
        check.bad("scale_metric", f"{raw!r} is not the name of a metric; for example num_requests_waiting")
    if target is None:
        if metric and metric not in (*_KNATIVE, *_KSERVE):
            check.bad("scale_target", f"is missing; how much of {metric} one replica should have, for example 10")
        return metric or None, None
    if not metric:
        check.bad("scale_target", "needs scale_metric, what it is the target of")
    elif metric in _KSERVE and (target != int(target) or not 1 <= target <= 100):
        check.bad("scale_target", f"is {target:g}; for {metric} 1 to 100, percent of what is requested")
    elif target < 0.001:
        check.bad("scale_target", f"is {target:g}, must be more than 0")
    return metric or None, float(target)


def _autoscaling(
    check: Check, metric: str | None, target: float | None
) -> tuple[tuple[Mapping[str, Any], ...], Mapping[str, Any] | None]:
    given = check.params.get("autoscaling") or {}
    metrics: Sequence[Any] = given.get("metrics") or ()
    for number, one in enumerate(metrics):
        where = f"autoscaling.metrics[{number}]"
        kind = one.get("type")
        if kind not in _METRICS:
            check.bad(where, f"type {kind!r} is not known; one of {', '.join(_METRICS)}, as in autoscaling/v2")
            continue
        part = kind[0].lower() + kind[1:]
        if check.only(where, one, ("type", part)) and not isinstance(one.get(part), Mapping):
            check.bad(where, f"needs {part}, what a metric of type {kind} is about, as in autoscaling/v2")
    behavior = given.get("behavior")
    if behavior:
        check.only("autoscaling.behavior", behavior, _BEHAVIOR)
    if given and not metrics and not metric:
        check.bad("autoscaling.metrics", "is missing; at least one metric, as in autoscaling/v2, or scale_metric")
    if metric in _KSERVE and given:
        check.bad(
            "scale_metric",
            f"{metric} beside autoscaling has two autoscalers; write it as a metric of type Resource there",
        )
        return (), None
    if metric and metric not in (*_KSERVE, *_KNATIVE):
        value = "1" if target is None else f"{target:.0f}" if target == int(target) else f"{target * 1000:.0f}m"
        pods = {"metric": {"name": metric}, "target": {"type": "AverageValue", "averageValue": value}}
        metrics = [{"type": "Pods", "pods": pods}, *metrics]
    return tuple(metrics), behavior or None
