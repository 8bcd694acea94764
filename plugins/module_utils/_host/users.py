# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Processes that hold a GPU, and whose they are."""

from __future__ import annotations

import os
import re
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import driver
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

DEVICE = "/dev/nvidia"
# of systemd's cgroup driver (dashes are underscores there) and of cgroupfs; static pods have a hash
POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})")
CONTAINER = re.compile(r"(?:^|[-/:])([0-9a-f]{64})(?:\.scope)?(?:/|$)", re.MULTILINE)


def find(host: Host) -> list[dict[str, Any]]:
    if driver.loaded(host) is None:
        return []  # nobody can hold what no driver gives
    found: list[dict[str, Any]] = []
    hidden = 0
    for pid in sorted((name for name in host.names("/proc") if name.isdigit()), key=int):
        try:
            devices = _open_devices(f"{host.root}/proc/{pid}/fd")
        except PermissionError:
            hidden += 1
            continue
        found.extend({"pid": int(pid), **_whose(host, pid), "device": device} for device in devices)
    if hidden:
        host.problem("users", f"{hidden} processes of other users can't be looked at. Run with become.")
    return found


def _open_devices(folder: str) -> list[str]:
    found = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    target = os.readlink(entry.path)
                except FileNotFoundError:
                    continue  # closed in the meantime
                if target.startswith(DEVICE):
                    found.add(target)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return []  # ended in the meantime
    return sorted(found)


def _whose(host: Host, pid: str) -> dict[str, Optional[str]]:
    cgroups = host.read(f"/proc/{pid}/cgroup") or ""
    pod, containers = POD.search(cgroups), CONTAINER.findall(cgroups)
    return {
        "command": (host.read_bytes(f"/proc/{pid}/comm") or b"").decode(errors="replace").strip(),
        "pod_uid": pod[1].replace("_", "-") if pod else None,
        "container_id": containers[-1] if containers else None,  # the innermost
    }
