# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes: supervisord as the first process of a PID and mount namespace of its own.

That makes the end simple and certain. The kernel kills everything in a PID namespace with its first process,
containers and their shims too, and takes every mount of a mount namespace away with its last process. So `down`, or a
`kill -9` of anything or everything, leaves neither a process nor a mount behind.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import supervisor.xmlrpc

from rehearsal.errors import RehearsalError
from rehearsal.layout import COMPILED_IN, Layout

_START_SECONDS = 10.0
_NAMESPACES = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")


class Supervision:
    """Start, stop and look at the parts of one state folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = layout.state / "lock"
        transport = supervisor.xmlrpc.SupervisorTransport(None, None, serverurl=f"unix://{layout.control_socket}")
        self._server = xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor

    def running(self) -> bool:
        """Whether the namespace lives: unshare holds the lock until it has seen the end of all that is in it."""
        if not self._lock.exists():
            return False
        with self._lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def boot(self) -> None:
        """Start an empty supervisor in new namespaces. Raises RehearsalError when it does not come up."""
        state = self._layout.state
        self._layout.control_socket.unlink(missing_ok=True)
        mounts = []
        for number, folder in enumerate(COMPILED_IN):
            own = state / "compiled-in" / str(number)
            own.mkdir(parents=True, exist_ok=True)
            mounts.append(f"mount --bind {own} {folder}")
        supervisord = f'exec "{sys.executable}" -m supervisor.supervisord -c "{state}/config/supervisord.conf"'
        with self._lock.open("w") as lock, (state / "logs" / "boot.log").open("wb") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [*_NAMESPACES, "sh", "-c", " && ".join([*mounts, supervisord])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                cwd=state,
            )
        (state / "pid").write_text(str(process.pid))
        deadline = time.monotonic() + _START_SECONDS
        while not self._layout.control_socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RehearsalError("The supervisor did not start:\n" + last_words(self._layout, "boot"))
            time.sleep(0.02)

    def kill(self) -> None:
        """End the namespace with all that is in it."""
        if not self.running():
            return
        outer = int((self._layout.state / "pid").read_text())
        with suppress(ProcessLookupError, FileNotFoundError):
            for first in Path(f"/proc/{outer}/task/{outer}/children").read_text().split():
                os.kill(int(first), signal.SIGKILL)
        deadline = time.monotonic() + _START_SECONDS
        while self.running():
            if time.monotonic() > deadline:
                raise RehearsalError("The cluster's processes do not end; see `dmesg` for a stuck kernel task.")
            time.sleep(0.02)

    def start(self, part: str) -> None:
        """Start a part, or let it go on if it is frozen."""
        self.thaw(part)
        with _said(part):
            self._server.startProcess(part, False)

    def stop(self, part: str) -> None:
        self.thaw(part)  # a frozen process cannot end
        with _said(part):
            self._server.stopProcess(part)

    def renew(self, part: str) -> None:
        """Stop a part whose command has changed, so that it next starts as supervisord.conf has it now."""
        self.stop(part)
        self._server.reloadConfig()
        self._server.removeProcessGroup(part)
        self._server.addProcessGroup(part)

    def freeze(self, part: str) -> None:
        with _said(part):
            self._server.signalProcess(part, "STOP")

    def thaw(self, part: str) -> None:
        with _said(part):
            self._server.signalProcess(part, "CONT")

    def states(self) -> dict[str, dict[str, Any]]:
        """supervisord's own words for each part: statename, description, pid, start (seconds since the epoch)."""
        rows = cast(list[dict[str, Any]], self._server.getAllProcessInfo())
        return {row["name"]: row for row in rows}


@contextmanager
def _said(part: str) -> Iterator[None]:
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if "ALREADY_STARTED" not in fault.faultString and "NOT_RUNNING" not in fault.faultString:
            raise RehearsalError(f"{part}: {fault.faultString}") from fault


def last_words(layout: Layout, part: str, lines: int = 12) -> str:
    """The end of a part's log."""
    path = Path(layout.logs / f"{part}.log")
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"
