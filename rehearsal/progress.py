# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress on stderr: a line that counts on a terminal, a line a step elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

_HEARTBEAT = 30.0  # seconds between lines of a long step where there is no terminal


class Progress:
    """Says what is being done and for how long. ``quiet`` drops the steps, not the notes."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show ``text`` with the seconds it has taken so far until the block ends."""
        begin, over = time.monotonic(), threading.Event()

        def tick() -> None:
            while not over.wait(1.0 if self._terminal else _HEARTBEAT):
                self._show(f"  {text} … {time.monotonic() - begin:.0f} s", final=not self._terminal)

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        mark = "✗"
        try:
            yield
            mark = "✓"
        finally:
            over.set()
            ticker.join()
            self._show(f"{mark} {text} {time.monotonic() - begin:.1f} s", final=True)

    def _show(self, line: str, final: bool) -> None:
        if not self._quiet:
            start = "\r\033[K" if self._terminal else ""
            print(start + line, end="\n" if final else "", file=sys.stderr, flush=True)
