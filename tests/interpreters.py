# SPDX-License-Identifier: GPL-3.0-or-later
"""Python interpreters: this machine's, and Debian's where it lacks one."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rehearsal import apt
from rehearsal.command import run

MINORS = range(9, 15)
SUITES = {9: "bullseye", 11: "bookworm", 13: "trixie"}
# gnupg: for tests; libstdc++6: for wheels such as that of grpcio; mount: to go into another one from there
_PACKAGES = ("python3", "python3-venv", "ca-certificates", "curl", "git", "gnupg", "libstdc++6", "mount")
# its /usr takes the place of the machine's in a mount namespace: all else, such as network, folders and pip's settings,
# is the machine's own. Its /usr must be a merged one, as that of all releases since Debian 12 and Ubuntu 20.04 is.
_INSIDE = 'mount --bind "$0/usr" /usr; exec "$@"'


class NoInterpreter(Exception):
    """Neither this machine nor Debian has what was asked for."""


@dataclass(frozen=True)
class Interpreter:
    """``program``: its path. ``system``: the root of the Debian that it is in, None for this machine."""

    program: str
    system: Path | None = None

    @property
    def minor(self) -> int:
        return int(self.program.rpartition("python3.")[2])

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line that runs another one where this interpreter is. Debian's needs root."""
        command = [str(argument) for argument in arguments]
        if self.system is None:
            return command
        return ["unshare", "--mount", "--propagation=private", "/bin/sh", "-ec", _INSIDE, str(self.system), *command]


def pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")


def search_path(pyenv: Path) -> str:
    """PATH without pyenv's shims: those of versions that are not switched on are there, and fail."""
    return os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != str(pyenv / "shims"))


def on_machine(minor: int, pyenv: Path) -> str | None:
    """The path of a Python 3.``minor`` that can make venvs."""
    name = f"python3.{minor}"
    found = [shutil.which(name, path=search_path(pyenv))]
    found += sorted(str(program) for program in pyenv.glob(f"versions/3.{minor}.*/bin/{name}"))
    for program in filter(None, found):
        if not subprocess.run([program, "-c", "import ensurepip, venv"], capture_output=True).returncode:
            return program
    return None


def find(minors: Iterable[int], cache: Path, pyenv: Path) -> Interpreter:
    """The first Python 3.x of ``minors`` that this machine has, else Debian. Raises NoInterpreter."""
    minors = list(minors)
    for minor in minors:
        if program := on_machine(minor, pyenv):
            return Interpreter(program)
    for minor in minors:
        if minor in SUITES:
            return in_debian(minor, cache)
    raise NoInterpreter(f"None of Python 3.{', 3.'.join(map(str, minors))} is on this machine or in {SUITES}.")


def in_debian(minor: int, cache: Path) -> Interpreter:
    """The Python 3.``minor`` of a Debian in the folder ``cache``, which is made where it is missing."""
    digest = hashlib.sha256(repr((_PACKAGES, apt.MERGED_USR)).encode()).hexdigest()[:8]
    system = cache / f"debian-{SUITES[minor]}-{digest}"
    if not system.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".debian-") as scratch:
            made, options = Path(scratch, "root"), Path(scratch, "apt.conf")
            options.write_text(apt.options())
            command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(_PACKAGES)}"]
            command += [
                "--format=directory",
                f"--aptopt={options}",
                f"--setup-hook={apt.MERGED_USR}",
                SUITES[minor],
                str(made),
            ]
            if platform.freedesktop_os_release()["ID"] == "debian":  # else Debian's usual servers
                run([*command, "-"], text=apt.sources(SUITES[minor]))
            else:
                run(command)
            for old in cache.glob(f"debian-{SUITES[minor]}-*"):
                shutil.rmtree(old)
            made.rename(system)
    return Interpreter(f"/usr/bin/python3.{minor}", system)
