# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes: supervisord as the first process of a namespace of its own, which ends with all that is in it."""

from __future__ import annotations

import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import supervisor.xmlrpc

from rehearsal.errors import RehearsalError
from rehearsal.layout import COMPILED_IN, Layout
from rehearsal.namespace import Namespace

_START_SECONDS = 10.0


class Supervision:
    """Start, stop and look at the parts of one state folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._namespace = Namespace(layout.state)
        transport = supervisor.xmlrpc.SupervisorTransport(None, None, serverurl=f"unix://{layout.control_socket}")
        self._server = xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor

    def running(self) -> bool:
        return self._namespace.running()

    def boot(self) -> None:
        """Start an empty supervisor in new namespaces. Raises RehearsalError when it does not come up."""
        state = self._layout.state
        self._layout.control_socket.unlink(missing_ok=True)
        mounts = []
        for number, folder in enumerate(COMPILED_IN):
            own = state / "compiled-in" / str(number)
            own.mkdir(parents=True, exist_ok=True)
            mounts.append(f"mount --bind {own} {folder}")
        # what names it by its usual place finds it: the kubelet itself has it below its own folder
        mounts.append(f"ln -sfn {state}/kubelet/pod-resources /var/lib/kubelet/pod-resources")
        supervisord = f'exec "{sys.executable}" -m supervisor.supervisord -c "{state}/config/supervisord.conf"'
        process = self._namespace.start(" && ".join([*mounts, supervisord]), state / "logs" / "boot.log")
        deadline = time.monotonic() + _START_SECONDS
        while not self._layout.control_socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RehearsalError("The supervisor did not start:\n" + last_words(self._layout, "boot"))
            time.sleep(0.02)

    def kill(self) -> None:
        """End the namespace with all that is in it."""
        self._namespace.kill()

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
