# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""One line of a preflight's answer."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KubeError

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclass(frozen=True)
class Row:
    """``check``: its name in docs/preflight.md; ``subject``: what was looked at; ``said``: what is so; ``remedy``:
    what to do, empty where nothing is to be done.
    """

    check: str
    subject: str
    status: str
    said: str
    remedy: str = ""

    def __str__(self) -> str:
        said = self.said.rstrip(".")
        return f"{self.check}: {self.subject}: {said}." + (f" {self.remedy}" if self.remedy else "")


def ok(check: str, subject: str, said: str) -> Row:
    return Row(check, subject, OK, said)


def warning(check: str, subject: str, said: str, remedy: str) -> Row:
    """Something to look at, or something that could not be looked at."""
    return Row(check, subject, WARNING, said, remedy)


def failure(check: str, subject: str, said: str, remedy: str) -> Row:
    """It is established that the run would fail, or that the service would not come up."""
    return Row(check, subject, FAILURE, said, remedy)


def unseen(check: str, subject: str, error: KubeError, remedy: str = "") -> Row:
    """What could not be looked at, and so is not judged."""
    if isinstance(error, Forbidden):
        said = error.message.partition(". Missing RBAC rule")[0]
        return warning(check, subject, f"not checked: {said}", remedy or "The result's `role` has that right.")
    return warning(check, subject, f"not checked: {error.message}", remedy or "Run it again.")
