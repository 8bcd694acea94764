# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. CRI-O."""

from __future__ import annotations

from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import release, toml
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host
from ansible_collections.gpuops.nim.plugins.module_utils._host.runtime import Runtime

PROGRAMS = ("/usr/local/bin/crio", "/usr/bin/crio")
CONFIG = "/etc/crio/crio.conf"
DROP_INS = "/etc/crio/crio.conf.d"
NEVER_READ = "/etc/crio/conf.d/99-nvidia.toml"  # of nvidia-ctk 1.18.0 to 1.19.0


def find(host: Host) -> list[Runtime]:
    program = host.first(*PROGRAMS)
    if program is None and not host.exists("/etc/crio"):
        return []
    version = release.find(host, program, ("cri-o",))
    files = [f"{DROP_INS}/{name}" for name in host.names(DROP_INS)]
    found = Runtime("crio", version=version, config=host.first(CONFIG), cdi=True, imports=files)
    if host.exists(NEVER_READ):
        found.problems.append(f"{NEVER_READ} is not read: CRI-O reads {DROP_INS}.")
    settings: dict[str, Any] = {}
    handlers: dict[str, Any] = {}
    readable = True
    for path in [*filter(None, [found.config]), *files]:
        try:
            section = _runtime_section(host, path)
        except (ValueError, AttributeError) as error:
            readable = False
            found.problems.append(f"{path} can't be read: {error}.")
            continue
        handlers.update(section.get("runtimes", {}))
        settings.update(section)
    found.nvidia_handler = "nvidia" in handlers
    if readable:
        found.default_runtime = settings.get("default_runtime", _default(version))
        found.systemd_cgroup = settings.get("cgroup_manager", "systemd") == "systemd"
    return [found]


def _runtime_section(host: Host, path: str) -> dict[str, Any]:
    text = host.read(path)
    if text is None:
        raise ValueError("see gpu_host.problems")
    section: dict[str, Any] = toml.loads(text).get("crio", {}).get("runtime", {})
    return section


def _default(version: Optional[str]) -> Optional[str]:
    if version is None:
        return None
    return "crun" if release.at_least(version, 1, 31) else "runc"
