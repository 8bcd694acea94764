# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. The running kernel, the one that a reboot would start, and whether modules can be built for them."""

from __future__ import annotations

import re
from typing import Any, Optional, Union

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

# of Debian, Ubuntu, EL, Amazon, SUSE; on 64-bit ARM
IMAGE = re.compile(r"(?:vmlinuz|vmlinux|[iI]mage)-(\d.*)")
COPIES = (".old", ".bak", ".signed")
SAVED = "saved_entry="


def find(host: Host) -> dict[str, Any]:
    first, then = running(host), following(host)
    return {
        "running": first,
        "next": then,
        "headers": {"running": first and has_headers(host, first), "next": then and has_headers(host, then)},
    }


def running(host: Host) -> Optional[str]:
    return (host.read("/proc/sys/kernel/osrelease") or "").strip() or None


def following(host: Host) -> Optional[str]:
    """The kernel that a reboot would start."""
    found = installed(host)
    chosen = _saved_entry(host)
    if chosen in found:
        return chosen
    return found[-1] if found else None


def installed(host: Host) -> list[str]:
    """Oldest first. A folder of modules alone is what a removed kernel leaves behind."""
    images = (IMAGE.fullmatch(name) for name in host.names("/boot"))
    found = {match[1] for match in images if match}
    # Fedora's and EL's packages bring the image there, and copy it to /boot
    found |= {name for name in host.names("/lib/modules") if host.exists(f"/lib/modules/{name}/vmlinuz")}
    return sorted((name for name in found if not name.endswith(COPIES)), key=version_key)


def has_headers(host: Host, kernel: str) -> bool:
    return host.exists(f"/lib/modules/{kernel}/build/Makefile")


def version_key(version: str) -> list[tuple[int, Union[int, str]]]:
    """Numbers compare as numbers, and come after words: 6.1.0-9 < 6.1.0-28, 6.1.0-rc1 < 6.1.0-1."""
    parts = re.findall(r"\d+|[a-zA-Z]+", version)
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def _saved_entry(host: Host) -> Optional[str]:
    """The version that GRUB's saved choice stands for; only where menu entries are Boot Loader Specification files."""
    folder = "/boot/loader/entries"
    if not host.names(folder):
        return None
    for line in host.lines("/boot/grub2/grubenv"):
        entry = line[len(SAVED) :]
        if line.startswith(SAVED) and host.exists(f"{folder}/{entry}.conf"):
            fields = (line.split(None, 1) for line in host.lines(f"{folder}/{entry}.conf"))
            return next((field[1].strip() for field in fields if len(field) == 2 and field[0] == "version"), None)
    return None
