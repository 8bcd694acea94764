# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. The release of an installed program: its package's, else what it says itself."""

from __future__ import annotations

import re
from typing import Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import packages
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host


def find(host: Host, program: Optional[str], names: tuple[str, ...] = ()) -> Optional[str]:
    """``names`` are packages that bring the program to /usr/bin."""
    if program is None or program.startswith("/usr/bin/"):
        found = packages.installed(host)
        version = next((found[name] for name in names if name in found), None)
        if version:
            return packages.upstream(version)
    match = re.search(r"\bv?(\d+\.\d+\.\d+)", host.output(program, "--version") or "") if program else None
    return match[1] if match else None


def at_least(version: Optional[str], *floor: int) -> bool:
    """False for an unknown one."""
    numbers = re.findall(r"\d+", packages.upstream(version)) if version else []
    return [int(number) for number in numbers[: len(floor)]] >= list(floor)
