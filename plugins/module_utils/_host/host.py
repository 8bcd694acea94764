# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. The host that is looked at: files under a root, programs only on the machine itself. Nothing raises for what
is missing or broken: it is absent, and where it should not be, a problem says so."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Optional

MAX_LINKS = 40  # as the kernel's own limit
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV}  # also of a process or a device that has just gone

# what a program printed; raises OSError or subprocess.SubprocessError
Run = Callable[[Sequence[str]], str]


def run_program(command: Sequence[str]) -> str:
    done = subprocess.run(  # pylint: disable=ansible-bad-function  # run_command has no time limit
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=10,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
    return done.stdout.decode(errors="replace")


class Host:
    """``run`` is None where the root is not that of this machine: its programs may not even be for this processor."""

    def __init__(self, root: str, run: Optional[Run]) -> None:
        self.root = root.rstrip("/")
        self.run = run
        self._problems: dict[tuple[str, str], None] = {}  # ordered, each once

    @property
    def problems(self) -> list[dict[str, str]]:
        return [{"what": what, "why": why} for what, why in self._problems]

    def problem(self, what: str, why: str) -> None:
        self._problems[what, why] = None

    def real(self, path: str) -> str:
        """Where a path of the host is on this machine, links followed as the host would. It may not exist."""
        if not self.root:
            return path
        parts = list(reversed(path.strip("/").split("/")))
        inside: list[str] = []
        links = 0
        while parts:
            part = parts.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del inside[-1:]
                continue
            try:
                target = os.readlink("/".join([self.root, *inside, part]))
            except OSError:  # not a link
                inside.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                inside.append(part)  # a loop: opening it says so
                continue
            if target.startswith("/"):
                inside = []
            parts.extend(reversed(target.strip("/").split("/")))
        return "/".join([self.root, *inside])

    def exists(self, path: str) -> bool:
        return os.path.exists(self.real(path))

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(self.real(path))

    def first(self, *paths: str) -> Optional[str]:
        """The first of them that exists."""
        return next((path for path in paths if self.exists(path)), None)

    def names(self, path: str) -> list[str]:
        """What a folder holds, sorted; nothing if there is no such folder."""
        try:
            return sorted(os.listdir(self.real(path)))
        except OSError as error:
            self._failed(path, error)
            return []

    def link(self, path: str) -> Optional[str]:
        """What a link says, not followed."""
        folder, name = os.path.split(path)
        try:
            return os.readlink(os.path.join(self.real(folder), name))
        except OSError as error:
            if error.errno != errno.EINVAL:  # no link
                self._failed(path, error)
            return None

    def read_bytes(self, path: str) -> Optional[bytes]:
        try:
            with open(self.real(path), "rb") as file:
                return file.read()
        except OSError as error:
            self._failed(path, error)
            return None

    def read(self, path: str) -> Optional[str]:
        data = self.read_bytes(path)
        if data is None:
            return None
        text = data.decode(errors="replace").replace("\0", "\ufffd")  # which no path may hold
        if text.encode() != data:
            self.problem(path, "Not UTF-8 text: other bytes were replaced.")
        return text

    def lines(self, path: str) -> Iterator[str]:
        yield from (self.read(path) or "").splitlines()

    def output(self, *command: str) -> Optional[str]:
        """What a program prints; None where none may be started, or it fails."""
        if self.run is None:
            return None
        try:
            return self.run(command)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            self.problem(" ".join(command), f"ended with {error.returncode}: {said[-1] if said else 'no message'}")
        except subprocess.TimeoutExpired as error:
            self.problem(" ".join(command), f"no answer in {error.timeout:g} s")
        except OSError as error:
            self.problem(" ".join(command), error.strerror or str(error))
        return None

    def _failed(self, path: str, error: OSError) -> None:
        if error.errno not in ABSENT:
            self.problem(path, error.strerror or str(error))
