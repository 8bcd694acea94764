# SPDX-License-Identifier: GPL-3.0-or-later
"""A program as the first process of a PID and mount namespace of its own.

That makes the end simple and certain. The kernel kills everything in a PID namespace with its first process,
containers and their shims too, and takes every mount of a mount namespace away with its last process. So a `kill -9` of
anything or everything leaves neither a process nor a mount behind.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from rehearsal.errors import RehearsalError

_END_SECONDS = 10.0
_UNSHARE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")


class Namespace:
    """Known by two files in ``folder``: a lock that is held while it lives, and the pid of unshare."""

    def __init__(self, folder: Path) -> None:
        self._lock, self._pid = folder / "lock", folder / "pid"

    def running(self) -> bool:
        """Whether it lives: unshare holds the lock until it has seen the end of all that is in it."""
        if not self._lock.exists():
            return False
        with self._lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def start(self, script: str, log: Path) -> subprocess.Popen[bytes]:
        """Run the shell script as the first process. What it says goes to ``log``."""
        with self._lock.open("w") as lock, log.open("wb") as output:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [*_UNSHARE, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                cwd=self._pid.parent,
            )
        self._pid.write_text(str(process.pid))
        return process

    def kill(self) -> None:
        """End it with all that is in it. Raises RehearsalError when a process doesn't end."""
        if not self.running():
            return
        outer = int(self._pid.read_text())
        with suppress(ProcessLookupError, FileNotFoundError):
            for first in Path(f"/proc/{outer}/task/{outer}/children").read_text().split():
                os.kill(int(first), signal.SIGKILL)
        deadline = time.monotonic() + _END_SECONDS
        while self.running():
            if time.monotonic() > deadline:
                raise RehearsalError("Processes of the rehearsal do not end; see `dmesg` for a stuck kernel task.")
            time.sleep(0.02)
