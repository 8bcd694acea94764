# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What lies beside a service that is late: its claims, its pods' nodes, and who holds what its pods want.

Read only then, and for people: rights on nodes and on other namespaces are not needed for a wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError, Unreachable
from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, findings, states

AGAIN = 15.0  # seconds that an answer is good for
ABOUT_CLAIMS = "involvedObject.kind=PersistentVolumeClaim"
SECONDS = 5.0  # for each question: the wait has other things to do

Object = Mapping[str, Any]


class Surroundings:
    """``clock`` as in the wait."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[tuple[str, str | None, str], tuple[float, list[dict[str, Any]]]] = {}

    def of(self, seen: states.Observed) -> findings.Around | None:
        """Look around one service; ``None`` when the API server does not answer: then nobody can be blamed."""
        waiting = [pod for pod in states.newest(seen)[1] if states.condition(pod, "Ready").get("status") != "True"]
        homeless = [pod for pod in waiting if not pod.get("spec", {}).get("nodeName")]
        claims = {
            (pod["metadata"]["namespace"], name)
            for pod in homeless
            for name in states.mounted_claims(pod.get("spec", {}))
        }
        try:
            return findings.Around(
                claims={name: self._claim(namespace, name) for namespace, name in sorted(claims)},
                nodes=self._all_nodes() if told(homeless, "taint", "Insufficient") else self._nodes(waiting),
                pods=self._pods() if told(homeless, "Insufficient") else (),
            )
        except Unreachable:
            return None

    def lost_nodes(self, pods: Iterable[Object]) -> list[findings.Finding]:
        """One finding for each node of these pods that does not answer."""
        try:
            judged = [findings.lost_node(node) for node in self._nodes(pods).values()]
        except Unreachable:
            return []
        return [finding for finding in judged if finding]

    def _all_nodes(self) -> dict[str, Object]:
        return {node["metadata"]["name"]: node for node in self._list("Node", None, "")}

    def _nodes(self, pods: Iterable[Object]) -> dict[str, Object]:
        names = {str(pod["spec"]["nodeName"]) for pod in pods if pod.get("spec", {}).get("nodeName")}
        found = (self._list("Node", None, f"metadata.name={name}") for name in sorted(names))
        return {node["metadata"]["name"]: node for nodes in found for node in nodes}

    def _pods(self) -> list[Any]:
        return self._list("Pod", None, capacity.NOT_OVER)

    def _claim(self, namespace: str, name: str) -> list[str]:
        """What the cluster says of a claim that is not bound."""
        claim = next(iter(self._list("PersistentVolumeClaim", namespace, f"metadata.name={name}")), None)
        if claim is None or claim.get("status", {}).get("phase") == "Bound":
            return []
        about = f"{ABOUT_CLAIMS},involvedObject.name={name}"
        return said_of_claim(claim, self._list("Event", namespace, about))

    def _list(self, kind: str, namespace: str | None, fields: str) -> list[dict[str, Any]]:
        """What the server said at most AGAIN seconds ago; nothing where we may not ask."""
        key, now = (kind, namespace, fields), self._clock()
        if key not in self._known or now - self._known[key][0] >= AGAIN:
            found: list[dict[str, Any]] = []
            try:
                found = self._client.list("v1", kind, namespace, fields=fields, retry=False, timeout=SECONDS).items
            except Unreachable:
                raise
            except KubeError:
                pass
            self._known[key] = (now, found)
        return self._known[key][1]


def said_of_claim(claim: Object, events: Iterable[Object]) -> list[str]:
    """What there is to say of a claim that is not bound; ``events``: those about it."""
    ordered = sorted(events, key=lambda event: str(event.get("lastTimestamp") or ""))
    said = dict.fromkeys(f"{event.get('reason')}: {event.get('message')}" for event in ordered)
    storage = claim["spec"].get("storageClassName") or "none"
    return [f"claim {claim['metadata']['name']} (storage class {storage}) is not bound", *list(said)[-3:]]


def told(pods: Iterable[Object], *words: str) -> bool:
    """Whether the scheduler has used one of the words of one of these pods."""
    said = [str(states.condition(pod, "PodScheduled").get("message")) for pod in pods]
    return any(word in message for message in said for word in words)
