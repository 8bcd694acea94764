# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Installed packages that have to do with GPUs or container runtimes: dpkg's file, or rpm's answer."""

from __future__ import annotations

import re
from functools import lru_cache

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

DPKG_STATUS = "/var/lib/dpkg/status"
RPM_DATABASES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
RELEVANT = re.compile(r".*nvidia.*|libcuda.*|containerd.*|docker.*|moby-.*|cri-o.*")
RPM_GLOBS = ("*nvidia*", "libcuda*", "containerd*", "docker*", "moby-*", "cri-o*")
NOT_UNPACKED = ("not-installed", "config-files", "half-installed")


@lru_cache(maxsize=1)
def installed(host: Host) -> dict[str, str]:
    """Names and versions, as the package manager writes them (rpm's without an epoch)."""
    if host.exists(DPKG_STATUS):
        return _dpkg(host)
    if any(host.names(path) for path in RPM_DATABASES):
        return _rpm(host)
    return {}


def upstream(version: str) -> str:
    """Without epoch and the packager's revision."""
    match = re.match(r"(?:\d+:)?v?(\d+(?:\.\d+)*)", version)
    return match[1] if match else version


def _dpkg(host: Host) -> dict[str, str]:
    found = {}
    for entry in (host.read(DPKG_STATUS) or "").split("\n\n"):
        name = _field(entry, "Package")
        if not RELEVANT.fullmatch(name):
            continue
        state = _field(entry, "Status").rpartition(" ")[2]
        if state in NOT_UNPACKED:
            continue
        if state in ("unpacked", "half-configured"):
            host.problem(f"package {name}", f"dpkg left it {state}.")
        found[name] = _field(entry, "Version")
    return found


def _field(entry: str, name: str) -> str:
    match = re.search(rf"^{name}: (.*)$", entry, re.MULTILINE)
    return match[1].strip() if match else ""


def _rpm(host: Host) -> dict[str, str]:
    if host.run is None:
        host.problem("packages", "Only rpm can read its database, and no program is started for another root.")
        return {}
    text = host.output("rpm", "-qa", "--qf", r"%{NAME} %{VERSION}-%{RELEASE}\n", *RPM_GLOBS) or ""
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
