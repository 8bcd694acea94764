# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a program to its end."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rehearsal.errors import RehearsalError


def run(
    command: list[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
) -> str:
    """What the program prints. ``environment``: beside this process's; ``text``: its standard input.

    Raises RehearsalError with the end of what it said when it fails.
    """
    everything = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
    done = subprocess.run(command, cwd=folder, env=everything, input=text, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise RehearsalError(f"{shlex.join(command)[:300]} failed:\n{tail}")
    return done.stdout
