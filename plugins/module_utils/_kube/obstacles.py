# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What keeps pods from being started, where they don't say it themselves: a volume, or their frame on the node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube import rollout
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError

_REASONS = ("FailedCreatePodSandBox", "FailedMount", "FailedAttachVolume")
_PODS = 10  # that are asked for at a time: the others' nodes have the same trouble, or none
_SHOWN = 300  # characters


class Obstacles:
    """Events are many, so they are read only when somebody looks, which is when a start takes long."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def look(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Read the events of those pods that are being started."""
        for pod in [pod for pod in pods if rollout.reason(pod) == rollout.STARTING][:_PODS]:
            self._known[pod["metadata"]["uid"]] = self._ask(pod["metadata"])

    def __call__(self, pod: Mapping[str, Any]) -> str:
        """The last of the pod's failures that was read; empty without one."""
        return self._known.get(pod["metadata"].get("uid", ""), "")

    def _ask(self, meta: Mapping[str, Any]) -> str:
        try:
            events = self._client.list(
                "v1", "Event", meta["namespace"], fields=f"involvedObject.uid={meta['uid']}", retry=False
            ).items
        except KubeError:  # may be forbidden: then it is not known
            return ""
        failed = [event for event in events if event.get("reason") in _REASONS]
        last = max(failed, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")), default=None)
        return f"{last['reason']}: {last.get('message', '')[:_SHOWN]}" if last else ""
