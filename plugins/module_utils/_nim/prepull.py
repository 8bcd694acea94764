# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""A small pod that has a node fetch an image before anybody needs it, and what became of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import findings, states
from .names import CONTAINER, PREFIX

LABEL = PREFIX + "pre-pull"  # says for which service
_HASH = "pre-pull"
_KEPT = ("imagePullSecrets", "serviceAccountName", "tolerations", "securityContext")

Object = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """``state``: waiting, pulled, refused (nothing but a change by a person helps) or skipped (the pod can't run)."""

    state: str
    detail: str = ""
    finding: findings.Finding | None = None


def pod(isvc: Mapping[str, Any], image: str, node: str, seconds: int) -> Object:
    """Return the pod: the service's way to the registry, and nothing of the model.

    It asks for no GPU and sees none. Whether the image has a ``true`` does not matter: once the container is tried, the
    image is there. The scheduler is not asked, so the node can't be another one.

    :param isvc: the live InferenceService, which owns the pod; ``seconds``: after that it ends by itself.
    """
    predictor, meta = isvc["spec"]["predictor"], isvc["metadata"]
    main: Object = next(
        (each for each in predictor.get("containers") or () if each.get("name") == CONTAINER),
        predictor.get("model") or {},
    )
    sizes = {"cpu": "10m", "memory": "32Mi"}
    container: Object = {
        "name": CONTAINER,
        "image": image,
        "command": ["true"],
        # a runtime that is NVIDIA's by default would show it all GPUs
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": {"requests": sizes, "limits": dict(sizes)},
    }
    container.update({key: copy.deepcopy(main[key]) for key in ("imagePullPolicy", "securityContext") if main.get(key)})
    owner = {"apiVersion": isvc["apiVersion"], "kind": isvc["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{meta['name']}-pre-pull-",
            "namespace": meta["namespace"],
            "labels": {LABEL: meta["name"]},
            "ownerReferences": [owner],
        },
        "spec": {
            **{key: copy.deepcopy(predictor[key]) for key in _KEPT if predictor.get(key)},
            "nodeName": node,
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": max(seconds, 1),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
        },
    }


def judge(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Answer:
    """Say how far the pod is; ``events``: of its namespace."""
    status = states.main_container(pod)
    state = status.get("state") or {}
    waiting = (state.get("waiting") or {}).get("reason", "")
    if "running" in state or "terminated" in state or waiting in states.CONFIG_REASONS:
        return Answer("pulled")
    if states.pod_events(pod, events, "Pulled"):
        return Answer("pulled")
    causes = findings.find(_as_rollout(pod, events))
    final = next((cause for cause in causes if not cause.heals), None)
    if final:
        return Answer("refused", final.cause, final)
    phase = pod.get("status") or {}
    if phase.get("phase") in ("Failed", "Succeeded"):
        reason, message = phase.get("reason") or "ended", phase.get("message") or ""
        state_word = "refused" if reason == "Evicted" else "waiting" if reason == "DeadlineExceeded" else "skipped"
        return Answer(state_word, f"{reason}: {message}".rstrip(": "))
    return Answer("waiting", causes[0].cause if causes else f"{waiting or 'it is being pulled'}")


def _as_rollout(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> states.Observed:
    """As if the pod were all that a service rolls out: so the same rules find what is wrong with it."""
    labels = {**(pod["metadata"].get("labels") or {}), states.TEMPLATE_HASH: _HASH}
    one = {states.REVISION: "1"}
    return states.Observed(
        isvc={"metadata": {}, "spec": {"predictor": {}}},
        deployment={"metadata": {"uid": _HASH, "annotations": one}},
        replicasets=[
            {
                "metadata": {
                    "labels": {states.TEMPLATE_HASH: _HASH},
                    "annotations": one,
                    "ownerReferences": [{"uid": _HASH}],
                }
            }
        ],
        pods=[{**pod, "metadata": {**pod["metadata"], "labels": labels}}],
        events=list(events),
    )
