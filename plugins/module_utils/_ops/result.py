# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What every operation takes and gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Progress = Callable[[str], None]
"""Takes one line for the person who waits. Never given a secret."""


@dataclass
class Result:
    """``data`` goes into the task's result beside ``changed``; ``diff`` is a list of before/after pairs."""

    changed: bool
    data: dict[str, Any] = field(default_factory=dict)
    diff: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class OpsError(Exception):
    """The operation failed. Everything that was found out and done until then comes along."""

    def __init__(
        self,
        message: str,
        *,
        data: dict[str, Any] | None = None,
        changed: bool = False,
        diff: list[dict[str, Any]] | None = None,
        warnings: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.data = data or {}
        self.changed = changed
        self.diff = diff or []
        self.warnings = warnings or []
