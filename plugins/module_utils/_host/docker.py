# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Docker Engine."""

from __future__ import annotations

import json
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import release
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host
from ansible_collections.gpuops.nim.plugins.module_utils._host.runtime import Runtime

PROGRAMS = ("/usr/local/bin/dockerd", "/usr/bin/dockerd")
CONFIG = "/etc/docker/daemon.json"
DRIVER_OPTION = "native.cgroupdriver="


def find(host: Host) -> list[Runtime]:
    program = host.first(*PROGRAMS)
    if program is None:
        return []
    version = release.find(host, program, ("docker-ce", "docker.io", "docker", "moby-engine"))
    found = Runtime("docker", version=version, config=host.first(CONFIG))
    config = _config(host, found.problems) if found.config else {}
    if config is not None:
        found.default_runtime = config.get("default-runtime") or "runc"
        found.nvidia_handler = "nvidia" in (config.get("runtimes") or {})
        found.cdi = bool((config.get("features") or {}).get("cdi", release.at_least(version, 28, 3)))
        found.systemd_cgroup = _systemd_cgroup(host, config.get("exec-opts") or [])
    return [found]


def _config(host: Host, problems: list[str]) -> Optional[dict[str, Any]]:
    text = host.read(CONFIG)
    if text is None:
        problems.append(f"{CONFIG} can't be read.")
        return None
    try:
        config = json.loads(text or "{}")
        if isinstance(config, dict):
            return config
        problems.append(f"{CONFIG} is no JSON object: dockerd does not start.")
    except ValueError as error:
        problems.append(f"{CONFIG} is no JSON: {error}.")
    return None


def _systemd_cgroup(host: Host, options: list[str]) -> Optional[bool]:
    told = [option[len(DRIVER_OPTION) :] for option in options if option.startswith(DRIVER_OPTION)]
    if told:
        return told[-1] == "systemd"
    # without an option: systemd where cgroups are of version 2
    return host.exists("/sys/fs/cgroup/cgroup.controllers") if host.exists("/sys/fs/cgroup") else None
