# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Which operating system this is: os-release(5)."""

from __future__ import annotations

import os
import shlex
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


def find(host: Host) -> dict[str, Any]:
    path = host.first(*OS_RELEASE)
    if path is None:
        host.problem(OS_RELEASE[0], "No such file, so nothing tells which operating system this is.")
    fields = _fields(host, path) if path else {}
    return {
        "id": fields.get("ID"),
        "id_like": fields.get("ID_LIKE", "").split(),
        "version": fields.get("VERSION_ID"),
        "name": fields.get("PRETTY_NAME"),
        "platform_id": fields.get("PLATFORM_ID"),
        "arch": _arch(host),
    }


def _fields(host: Host, path: str) -> dict[str, str]:
    fields = {}
    for line in host.lines(path):
        name, sign, value = line.strip().partition("=")
        if not sign or name.startswith("#"):
            continue
        try:
            fields[name] = "".join(shlex.split(value))
        except ValueError:  # a quote without its end
            host.problem(path, f"{name} is not quoted as os-release(5) wants it.")
    return fields


def _arch(host: Host) -> Optional[str]:
    told = host.read("/proc/sys/kernel/arch")  # since Linux 6.1
    if told:
        return told.strip()
    return None if host.root else os.uname().machine
