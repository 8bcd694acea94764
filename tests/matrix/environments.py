# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments that are kept between runs, and made anew when what they are made of changes."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpuops.nim.tests.interpreters import Interpreter
from rehearsal.command import run


@dataclass(frozen=True)
class Environment:
    """``folder``: its own, for whatever else is worth keeping as long as it."""

    folder: Path
    interpreter: Interpreter

    @property
    def bin(self) -> Path:
        return self.folder / "venv" / "bin"

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        return self.interpreter.command(self.bin / program, *arguments)

    def wrapper(self) -> Path:
        """A program that is this environment's Python, for who wants a path and no command line."""
        script = self.folder / "python"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(self.command("python"))} "$@"\n')
        script.chmod(0o755)
        return script


def build(cache: Path, name: str, interpreter: Interpreter, requirements: Iterable[str]) -> Environment:
    """The environment ``name`` in the folder ``cache``, with ``requirements`` for pip. Raises RehearsalError."""
    requirements = list(requirements)
    key = hashlib.sha256(repr((interpreter, requirements)).encode()).hexdigest()[:12]
    environment = Environment(cache / f"{name}-{key}", interpreter)
    stamp = environment.folder / "complete"
    if not stamp.exists():
        for old in cache.glob(f"{name}-{'[0-9a-f]' * len(key)}"):
            shutil.rmtree(old)
        environment.folder.mkdir(parents=True)
        listed = environment.folder / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n")
        run(interpreter.command(interpreter.program, "-m", "venv", environment.bin.parent))
        # with bytecode, whatever the caller thinks of it: without, every start of Ansible compiles it all again
        pip = environment.command("python", "-m", "pip", "install", "--quiet", "--compile", f"--requirement={listed}")
        run(pip, environment={"PATH": f"{environment.bin}{os.pathsep}{os.environ['PATH']}"})
        stamp.touch()
    return environment
