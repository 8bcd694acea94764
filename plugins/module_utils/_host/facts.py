# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. All facts of a GPU host: a function for each part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._host import (
    cdi,
    driver,
    kernel,
    managers,
    nouveau,
    pci,
    runtimes,
    secure_boot,
    system,
    toolkit,
    users,
)
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host, run_program

# what finds it, and what stands in its place when that fails
PARTS: dict[str, tuple[Callable[[Host], Any], Any]] = {
    "os": (system.find, {}),
    "kernel": (kernel.find, {}),
    "gpus": (pci.gpus, []),
    "nvswitches": (pci.nvswitches, []),
    "nvlink5": (pci.nvlink5, False),
    "driver": (driver.find, {}),
    "nouveau": (nouveau.find, {}),
    "secure_boot": (secure_boot.find, {}),
    "toolkit": (toolkit.find, None),
    "runtimes": (runtimes.find, []),
    "cdi": (cdi.find, {}),
    "users": (users.find, []),
    "managers": (managers.find, []),
}


def gather(root: str, parts: Iterable[str]) -> dict[str, Any]:
    return look(Host(root, run_program if root == "/" else None), parts)


def look(host: Host, parts: Iterable[str]) -> dict[str, Any]:
    found = {part: _guarded(host, part) for part in parts}
    return {**found, "problems": host.problems}


def _guarded(host: Host, name: str) -> Any:
    find, empty = PARTS[name]
    try:
        return find(host)
    except Exception as error:  # one part that trips over a file nobody thought of must not take the others with it
        host.problem(name, f"{type(error).__name__}: {error}")
        return empty
