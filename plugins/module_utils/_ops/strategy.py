# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What ``update_strategy: auto`` means at this moment: surge where a second pod fits now, else in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden
from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, manifests, states

Object = dict[str, Any]

IN_PLACE, SURGE = "in_place", "surge"


def kept(live: Mapping[str, Any] | None) -> str:
    """The strategy of a service that is there; in place for one that is not: its first pod has nothing to replace."""
    strategy = ((live or {}).get("spec", {}).get("predictor", {}).get("deploymentStrategy")) or {}
    surge = (strategy.get("rollingUpdate") or {}).get("maxSurge", 0)
    return SURGE if strategy.get("type") == "RollingUpdate" and str(surge).rstrip("%") not in ("0", "") else IN_PLACE


class Chooser:
    """Looks for room for second pods. Nodes and pods are read once, when the first service of a task changes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._nodes: list[Object] | None = None
        self._pods: list[Object] | None = None

    def choose(self, isvc: Object, claims: Mapping[str, Object]) -> tuple[str, str]:
        """The strategy and the reason for it.

        :param isvc: the service as it should become; ``claims``: those of its namespace, by name.
        """
        predictor = isvc["spec"]["predictor"]
        pod = {"containers": [predictor.get("model", {})], **predictor}
        try:
            if self._nodes is None:
                self._nodes = self._client.list("v1", "Node").items
            nodes = capacity.candidates(pod, self._nodes)
            if nodes and self._pods is None:
                over = "status.phase!=Succeeded,status.phase!=Failed"
                self._pods = self._client.list("v1", "Pod", fields=over).items
        except Forbidden as error:
            return IN_PLACE, f"whether a second pod would fit is not known. {error.message}"
        pods = self._pods or []
        modes = [(claims.get(claim) or {}).get("spec", {}).get("accessModes") or () for claim in states.claims_of(isvc)]
        if any("ReadWriteOncePod" in mode for mode in modes):
            return IN_PLACE, "its claim can be mounted by one pod only"
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
            return IN_PLACE, "no node has room for a second pod now, so the old one ends first"
        pods.append({"spec": {**pod, "nodeName": name}, "metadata": {}})  # its room is not the next service's
        return SURGE, f"node {name} has room for a second pod, so the old one serves until the new one is ready"
