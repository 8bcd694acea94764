# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's `main()` in this process, on every supported ansible-core."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.common import warnings

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # 2.17, 2.18

    @contextlib.contextmanager
    def patch_module_args(args: dict[str, Any]) -> Iterator[None]:
        saved, basic._ANSIBLE_ARGS = basic._ANSIBLE_ARGS, json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()
        try:
            yield
        finally:
            basic._ANSIBLE_ARGS = saved


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict]]:
    """(main, check=False, diff=False, **options) -> exit code and the JSON it printed."""

    def run(main: Callable[[], None], check: bool = False, diff: bool = False, **params: Any) -> tuple[int, dict]:
        # a module is a process of its own: so are its warnings, and it isn't the controller, which other tests load
        with contextlib.suppress(ImportError):  # 2.17, 2.18
            monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
        for kept in ("_global_warnings", "_global_deprecations"):
            monkeypatch.setattr(warnings, kept, type(getattr(warnings, kept))())
        args = {**params, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(args), pytest.raises(SystemExit) as stop:
            main()
        result = json.loads(capsys.readouterr().out)
        result.pop("_ansible_new_secrets", None)  # for the controller only: what it has to mask (2.22)
        return stop.value.code, result

    return run
