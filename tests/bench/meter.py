# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a process and measures what it took: time, memory, requests, and what the cluster did meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import psutil
import urllib3
from kubernetes import config, dynamic

from rehearsal.layout import Layout

from .contenders import Start

READS = ("get", "list", "watch")
SAMPLE_SECONDS = 0.1  # between two looks at the memory
_NOT_OURS = ("ANSIBLE_", "K8S_AUTH_", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "NGC_API_KEY")


@dataclass
class Seen:
    """What an observer saw of a namespace, by the wall clock: the first time of each, by name of the object."""

    written: dict[str, float] = field(default_factory=dict)  # InferenceServices
    ready: dict[str, float] = field(default_factory=dict)  # InferenceServices
    running: dict[str, float] = field(default_factory=dict)  # pods whose model loads
    pod_ready: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)  # events that say why an image was not pulled


@dataclass
class Run:
    """One run of a process. Times are the wall clock's; ``memory``: peak of all its processes in MiB (shared once)."""

    began: float
    ended: float = 0.0
    rc: int = 0
    output: str = ""
    memory: float = 0.0
    requests: int = 0
    writes: int = 0
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def changed(self) -> list[str]:
        """Tasks that say they changed something; of kubectl, objects."""
        objects = [line for line in self.output.splitlines() if line.endswith((" configured", " created"))]
        return [name for name, task in self.tasks.items() if task["changed"]] + objects


def measure(layout: Layout, start: Start, agent: str) -> Run:
    """Runs it to its end. ``agent``: how its user agent begins in the audit log."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    log = layout.audit_log.open("rb")
    log.seek(0, os.SEEK_END)
    done = Run(time.time())
    process = subprocess.Popen(
        start.command,
        env={**environment, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0", **start.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sampler = threading.Thread(target=_watch_memory, args=(process.pid, done), daemon=True)
    sampler.start()
    done.output = process.communicate()[0]
    done.ended, done.rc = time.time(), process.returncode
    sampler.join()
    for line in done.output.splitlines():
        if line.startswith('{"task"'):
            task = json.loads(line)
            done.tasks[task["task"]] = task
    with log:
        done.requests, done.writes = _audit(layout, log, agent)
    return done


def _watch_memory(pid: int, run: Run) -> None:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
            total = 0
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            run.memory = max(run.memory, total / 2**20)
            time.sleep(SAMPLE_SECONDS)


def _audit(layout: Layout, log: BinaryIO, agent: str) -> tuple[int, int]:
    """Requests, and those of them that write, in the rest of the audit log."""
    time.sleep(0.3)  # a request is logged when it has ended
    found: dict[str, bool] = {}
    for line in _lines(layout, log):
        if not line.startswith(b'{"kind"'):  # the rest of one that was being written when the program started
            continue
        event = json.loads(line)
        if event.get("userAgent", "").startswith(agent):
            proxied = event.get("objectRef", {}).get("subresource") == "proxy"
            dry = "dryRun=All" in event["requestURI"]
            found[event["auditID"]] = not (event["verb"] in READS or dry or proxied)
    return len(found), sum(found.values())


def _lines(layout: Layout, log: BinaryIO) -> Iterator[bytes]:
    yield from log
    if layout.audit_log.stat().st_ino != os.fstat(log.fileno()).st_ino:  # the server has begun a new file since
        with layout.audit_log.open("rb") as new:
            yield from new


@contextlib.contextmanager
def observed(layout: Layout, namespace: str) -> Iterator[Seen]:
    """Watches the namespace, whether it exists yet or not."""
    client = config.new_client_from_config(str(layout.kubeconfig))
    client.user_agent = "benchmark"
    api, seen = dynamic.DynamicClient(client), Seen()
    ended = threading.Event()
    for version, kind, take in (
        ("serving.kserve.io/v1beta1", "InferenceService", _take_service),
        ("v1", "Pod", _take_pod),
        ("v1", "Event", _take_event),
    ):
        resource = api.resources.get(api_version=version, kind=kind)
        threading.Thread(target=_follow, args=(resource, namespace, take, seen, ended), daemon=True).start()
    try:
        yield seen
    finally:
        ended.set()


def _follow(resource: Any, namespace: str, take: Any, seen: Seen, ended: threading.Event) -> None:
    while not ended.is_set():
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            for event in resource.watch(namespace=namespace, timeout=60):
                take(event["raw_object"], seen, time.time())
                if ended.is_set():
                    return


def _true(obj: dict[str, Any], kind: str) -> bool:
    conditions = obj.get("status", {}).get("conditions") or ()
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def _take_service(obj: dict[str, Any], seen: Seen, now: float) -> None:
    name = obj["metadata"]["name"]
    seen.written.setdefault(name, now)
    if _true(obj, "Ready"):
        seen.ready.setdefault(name, now)


def _take_pod(obj: dict[str, Any], seen: Seen, now: float) -> None:
    name = obj["metadata"]["name"]
    if obj["status"].get("phase") == "Running":
        seen.running.setdefault(name, now)
    if _true(obj, "Ready"):
        seen.pod_ready.setdefault(name, now)


def _take_event(obj: dict[str, Any], seen: Seen, now: float) -> None:
    if obj.get("reason") == "Failed" and "401" in obj.get("message", ""):
        seen.refused.setdefault(obj["involvedObject"]["name"], now)
