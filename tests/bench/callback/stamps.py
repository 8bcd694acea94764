# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints a line of JSON when a task ends: its name, when it was, and whether it changed something or failed."""

from __future__ import annotations

import json
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: stamps
type: stdout
short_description: When each task ended
description:
  - For the benchmark.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "stamps"

    def v2_runner_on_ok(self, result):
        self._show(result, False)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._show(result, True)

    def _show(self, result, failed):
        told = result._result
        items = [item.get("msg") for item in told.get("results", ()) if item.get("failed")]
        line = {
            "task": result._task.name,
            "ended": time.time(),
            "changed": bool(told.get("changed")),
            "failed": failed,
            "msg": str(items or told.get("msg")) if failed else "",
        }
        print(json.dumps(line), flush=True)
