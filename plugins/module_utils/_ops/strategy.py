# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What ``update_strategy: auto`` means at this moment: surge where a second pod fits now, else in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden
from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, manifests, quota, states

Object = dict[str, Any]

IN_PLACE, SURGE = "in_place", "surge"


def kept(live: Mapping[str, Any] | None) -> str:
    """The strategy of a service that is there; in place for one that is not: its first pod has nothing to replace."""
    strategy = ((live or {}).get("spec", {}).get("predictor", {}).get("deploymentStrategy")) or {}
    surge = (strategy.get("rollingUpdate") or {}).get("maxSurge", 0)
    return SURGE if strategy.get("type") == "RollingUpdate" and str(surge).rstrip("%") not in ("0", "") else IN_PLACE


def pod_of(isvc: Mapping[str, Any]) -> Object:
    """The ``spec`` of the pods that KServe will make, as far as it is known before."""
    predictor = isvc["spec"]["predictor"]
    return {"containers": [predictor.get("model", {})], **predictor}


class Chooser:
    """Looks for room for second pods. What there is is read once, when the first service of a task changes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._nodes: list[Object] | None = None
        self._pods: list[Object] | None = None
        self._quotas: dict[str, list[Object]] = {}  # by namespace
        self._chosen: list[tuple[str, Object]] = []  # second pods that come, with their namespace

    def choose(self, isvc: Object, claims: Mapping[str, Object]) -> tuple[str, str]:
        """The strategy and the reason for it.

        :param isvc: the service as it should become; ``claims``: those of its namespace, by name.
        """
        name, why = self.place(isvc, claims)
        if not name:
            return IN_PLACE, why
        # its room is not the next service's
        (self._pods or []).append({"spec": {**pod_of(isvc), "nodeName": name}, "metadata": {}})
        self._chosen.append((isvc["metadata"]["namespace"], pod_of(isvc)))
        return SURGE, why

    def place(self, isvc: Object, claims: Mapping[str, Object]) -> tuple[str, str]:
        """The node with room for a second pod, or an empty name; and the reason."""
        pod = pod_of(isvc)
        try:
            if self._nodes is None:
                self._nodes = self._client.list("v1", "Node", keep=capacity.short_node).items
            nodes = capacity.candidates(pod, self._nodes)
            if nodes and self._pods is None:
                self._pods = self._client.list("v1", "Pod", fields=capacity.NOT_OVER, keep=capacity.short_pod).items
        except Forbidden as error:
            return "", f"whether a second pod would fit is not known. {error.message}"
        pods = self._pods or []
        modes = [(claims.get(claim) or {}).get("spec", {}).get("accessModes") or () for claim in states.claims_of(isvc)]
        if any("ReadWriteOncePod" in mode for mode in modes):
            return "", "its claim can be mounted by one pod only"
        if any(not {"ReadWriteMany", "ReadOnlyMany"} & set(mode) for mode in modes):
            here = {
                other["spec"].get("nodeName")
                for other in pods
                if other["metadata"].get("namespace") == isvc["metadata"]["namespace"]
                and (other["metadata"].get("labels") or {}).get(manifests.ISVC_LABEL) == isvc["metadata"]["name"]
            }
            nodes = [node for node in nodes if node["metadata"]["name"] in here]
        name = capacity.room(pod, nodes, pods)
        if not name:
            return "", "no node has room for a second pod now, so the old one ends first"
        full = self._full_quota(isvc["metadata"]["namespace"], pod)
        if full:
            return "", f"ResourceQuota {full} has no room for a second pod now, so the old one ends first"
        return name, f"node {name} has room for a second pod, so the old one serves until the new one is ready"

    def _full_quota(self, namespace: str, pod: Object) -> str:
        """The name of a quota that would refuse a second pod; empty where none would, or none may be seen."""
        if namespace not in self._quotas:
            try:
                self._quotas[namespace] = self._client.list("v1", "ResourceQuota", namespace).items
            except Forbidden:  # a surge that is refused after all is told with its cause
                self._quotas[namespace] = []
        chosen = [other for where, other in self._chosen if where == namespace]
        rules = self._quotas[namespace]
        return next((str(rule["metadata"]["name"]) for rule in rules if quota.refuses(rule, pod, chosen)), "")
