# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. What is told about a container runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional


@dataclass
class Runtime:
    """As it is while its configuration can't be read."""

    name: str
    flavour: str = "plain"
    version: Optional[str] = None
    config: Optional[str] = None
    config_version: Optional[int] = None
    default_runtime: Optional[str] = None
    nvidia_handler: bool = False
    cdi: bool = False
    systemd_cgroup: Optional[bool] = None
    imports: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
