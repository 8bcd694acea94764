# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Has nodes fetch images before a service is touched, so that a tag that isn't there costs nobody an outage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    AdmissionDenied,
    Forbidden,
    Invalid,
    KubeError,
)
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim import prepull
from ansible_collections.gpuops.nim.plugins.module_utils._nim.prepull import Answer
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import Progress

HEARTBEAT = 30.0  # seconds

Object = dict[str, Any]


@dataclass(frozen=True)
class Pull:
    """An image that a node should have for a service; ``isvc`` is the live one."""

    isvc: Object
    image: str
    node: str

    @property
    def key(self) -> tuple[str, str]:
        meta = self.isvc["metadata"]
        return meta["namespace"], meta["name"]

    def __str__(self) -> str:
        return "/".join(self.key)


def pull(
    client: Client, pulls: Sequence[Pull], *, timeout: int, progress: Progress
) -> dict[tuple[str, str], list[Answer]]:
    """Have all of them fetched at once; return the answers of each service. Leaves no pod behind.

    An answer that is still waiting came to no end in ``timeout`` seconds.

    :raises KubeError: the cluster can't be asked or watched.
    """
    answers: dict[tuple[str, str], list[Answer]] = {}
    made: dict[str, Pull] = {}
    try:
        for one in pulls:
            _remove(client, [one.key])  # of a run that was cut off
        for one in pulls:
            try:
                pod = client.create(prepull.pod(one.isvc, one.image, one.node, timeout))
            except (AdmissionDenied, Forbidden, Invalid) as error:
                answers.setdefault(one.key, []).append(Answer("skipped", error.message))
                continue
            made[pod["metadata"]["uid"]] = one
            progress(f"[{one}] node {one.node} fetches {one.image}")
        for uid, answer in _watch(client, made, timeout, progress).items():
            answers.setdefault(made[uid].key, []).append(answer)
    finally:
        with suppress(KubeError):  # they end by themselves, and go with their service
            _remove(client, {one.key for one in pulls})
    return answers


def _watch(client: Client, made: Mapping[str, Pull], timeout: int, progress: Progress) -> dict[str, Answer]:
    begun = time.monotonic()
    open_ = {uid: Answer("waiting", "it has not begun") for uid in made}
    done: dict[str, Answer] = {}
    queries = [
        query
        for namespace in sorted({one.key[0] for one in made.values()})
        for query in (
            Query("v1", "Pod", namespace, labels=prepull.LABEL),
            Query("v1", "Event", namespace, fields="involvedObject.kind=Pod"),
        )
    ]
    beat, end, listed = begun + HEARTBEAT, begun + timeout, False
    with Mirror(client, queries) as mirror:
        while open_:
            listed = mirror.wait(max(min(beat, end) - time.monotonic(), 0)) or listed
            now = time.monotonic()
            pods = {pod["metadata"]["uid"]: pod for pod in mirror.objects("Pod")} if listed else {}
            events = mirror.objects("Event") if listed else []
            for uid in list(open_):
                one, before = made[uid], open_[uid]
                if listed:
                    gone = Answer("skipped", "somebody removed the pod that was to fetch it")
                    open_[uid] = prepull.judge(pods[uid], events) if uid in pods else gone
                answer = open_[uid]
                if answer.state != "waiting":
                    done[uid] = open_.pop(uid)
                    word = "has the image" if answer.state == "pulled" else f"{answer.state}: {answer.detail}"
                    progress(f"[{one}] node {one.node} {word} ({now - begun:.0f} s)")
                elif answer.detail != before.detail or now >= beat:
                    progress(f"[{one}] node {one.node} waits for the image ({now - begun:.0f} s): {answer.detail}")
            beat = now + HEARTBEAT if now >= beat else beat
            if now >= end:
                return {**done, **open_}
    return done


def _remove(client: Client, services: Iterable[tuple[str, str]]) -> None:
    for namespace, name in services:
        for pod in client.list("v1", "Pod", namespace, labels=f"{prepull.LABEL}={name}").items:
            client.delete("v1", "Pod", pod["metadata"]["name"], namespace, propagation="Background")
