# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. NVIDIA's container toolkit."""

from __future__ import annotations

import re
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import packages
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
    "nvidia-container-runtime",  # until 1.14
    "nvidia-docker2",
)
# that of the GPU Operator last
PROGRAMS = ("/usr/bin/nvidia-ctk", "/usr/local/bin/nvidia-ctk", "/usr/local/nvidia/toolkit/nvidia-ctk")


def find(host: Host) -> Optional[dict[str, Any]]:
    everything = packages.installed(host)
    found = {name: everything[name] for name in PACKAGES if name in everything}
    told = found.get("nvidia-container-toolkit-base") or found.get("nvidia-container-toolkit")
    if told:
        return {"version": packages.upstream(told), "packages": found}
    program = host.first(*PROGRAMS)
    if program is None and not found:
        return None
    return {"version": _ask(host, program) if program else None, "packages": found}


def _ask(host: Host, program: str) -> Optional[str]:
    match = re.search(r"version (\d+\.\d+\.\d+\S*)", host.output(program, "--version") or "")
    return match[1] if match else None
