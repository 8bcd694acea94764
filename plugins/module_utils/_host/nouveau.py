# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. The kernel's own driver for NVIDIA cards, and whether it is kept out."""

from __future__ import annotations

import re

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

# modprobe.d(5): a file hides those of its name in later folders
FOLDERS = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
RULE = re.compile(r"\s*(?:blacklist\s+nouveau|install\s+nouveau\s+(?:/usr)?/bin/(?:false|true))\s*(?:#.*)?")
PARAMETER = re.compile(r"(?:modprobe\.blacklist|module_blacklist|rd\.driver\.blacklist)=(?:\S*,)?nouveau(?:,\S*)?")


def find(host: Host) -> dict[str, bool]:
    return {"loaded": loaded(host), "blacklisted": _by_file(host) or _by_command_line(host)}


def loaded(host: Host) -> bool:
    return host.exists("/sys/module/nouveau")


def _by_file(host: Host) -> bool:
    files: dict[str, str] = {}
    for folder in FOLDERS:
        for name in host.names(folder):
            if name.endswith(".conf"):
                files.setdefault(name, f"{folder}/{name}")
    return any(RULE.fullmatch(line) for path in files.values() for line in host.lines(path))


def _by_command_line(host: Host) -> bool:
    return any(PARAMETER.fullmatch(word) for word in (host.read("/proc/cmdline") or "").split())
