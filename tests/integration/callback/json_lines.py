# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints each task's result as one line of JSON: whatever else gets onto stdout breaks the tests that read it."""

from __future__ import annotations

import json

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: json_lines
type: stdout
short_description: Each result as a line of JSON
description:
  - For the tests.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "json_lines"

    def v2_runner_on_ok(self, result):
        self._show(result, False)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._show(result, True)

    def v2_runner_on_unreachable(self, result):
        self._show(result, True)

    def _show(self, result, failed):
        print(json.dumps({**result._result, "failed": failed}, default=str), flush=True)
