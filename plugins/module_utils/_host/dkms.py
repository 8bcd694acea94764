# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. What DKMS has of the driver, from its tree, as its own status command reads it."""

from __future__ import annotations

import re
from typing import Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

TREE = "/var/lib/dkms"
DRIVER = re.compile(r"nvidia(?:-(?!fs).*)?")  # not GPUDirect Storage's module


def find(host: Host, kernels: list[str]) -> list[dict[str, Optional[str]]]:
    """For each kernel that something was built for, and for ``kernels`` (the running and the next one) in any case."""
    found: list[dict[str, Optional[str]]] = []
    for module in host.names(TREE):
        if not DRIVER.fullmatch(module):
            continue
        for version in host.names(f"{TREE}/{module}"):
            folder = f"{TREE}/{module}/{version}"
            if host.link(folder) is not None or not host.is_dir(folder):
                continue  # a link kernel-… to what is installed, or what an interrupted removal left
            others = [name for name in host.names(folder) if name not in ("source", "build")]
            built = [name for name in others if host.is_dir(f"{folder}/{name}")]
            wanted: list[Optional[str]] = [*sorted({*built, *kernels})]
            found.extend(
                {"module": module, "version": version, "kernel": kernel, "state": _state(host, folder, kernel)}
                for kernel in wanted or [None]
            )
    return found


def _state(host: Host, folder: str, kernel: Optional[str]) -> str:
    if not host.exists(f"{folder}/source"):
        return "broken"
    if kernel is None:
        return "added"
    module, version = folder[len(TREE) + 1 :].split("/")
    for arch in host.names(f"{folder}/{kernel}"):
        if not host.is_dir(f"{folder}/{kernel}/{arch}/module"):
            continue
        installed = host.link(f"{TREE}/{module}/kernel-{kernel}-{arch}") or ""
        return "installed" if installed.endswith(f"{version}/{kernel}/{arch}") else "built"
    weak = host.names(f"/lib/modules/{kernel}/weak-updates")
    return "installed-weak" if any(name.startswith("nvidia.ko") for name in weak) else "added"
