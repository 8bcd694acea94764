# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Private. Runs a module's function inside Ansible's own worker: no process start, live progress on the console."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import typing as t

from ansible import constants as C
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, hidden_values, mask, outcome

try:
    # Ansible loads action plugins before it forks its workers: the price of these imports is paid once for all tasks
    import kubernetes  # noqa: F401  # pylint: disable=unused-import
    import requests  # noqa: F401  # pylint: disable=unused-import

    LIBRARIES = True
except ImportError:
    LIBRARIES = False


class LocalAction(ActionBase):
    """For the module of the same name: runs it in this process where that means the same, else as any module."""

    _supports_check_mode = True
    _supports_async = True
    spec: ModuleSpec

    def run(self, tmp: object = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """The module's result, whichever way it ran."""
        task_vars = task_vars or {}
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if self._runs_here(task_vars):
            result.update(self._run_here(task_vars["inventory_hostname"]))
        else:
            wrap_async = self._task.async_val and not self._connection.has_native_async
            result.update(self._execute_module(task_vars=task_vars, wrap_async=wrap_async))
            # cores before 2.21 repeat the arguments, a kubeconfig's tokens among them
            result.pop("invocation", None)
        return result

    def _runs_here(self, task_vars: dict[str, t.Any]) -> bool:
        """True for a local connection as the same user, in the foreground, with this very Python.

        Where no interpreter is set Ansible would search for one on the controller and might find one without our
        libraries; ours has them, so it is the better choice.
        """
        if not LIBRARIES or self._task.async_val or self._connection.transport != "local" or self._connection.become:
            return False
        if self._task.delegate_to:
            task_vars = task_vars.get("ansible_delegated_vars", {}).get(self._task.delegate_to, task_vars)
        interpreter = self._templar.template(C.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars))
        return interpreter.startswith("auto") or _same_python(interpreter, sys.executable)

    def _run_here(self, host: str) -> dict[str, t.Any]:
        environment: dict[str, t.Any] = {}
        self._compute_environment_string(environment)
        with _surroundings(environment, self._loader.get_basedir()):
            # plain values, as a module gets them: no tags, no lazy templates
            args = json.loads(json.dumps(self._task.args, default=str))
            checked = ArgumentSpecValidator(self.spec.argument_spec, **self.spec.rules).validate(args)
            params = checked.validated_parameters
            hidden = hidden_values(params, checked._no_log_values)
            if checked.error_messages:
                message = checked.errors.msg
                if isinstance(checked.errors[0], UnsupportedError):
                    message = f"Unsupported parameters for ({self._task.action}) module: {message}"
                return {"failed": True, "changed": False, "msg": mask(message, hidden)}

            def progress(line: str) -> None:
                if not self._task.no_log:
                    # stderr: JSON callbacks own stdout
                    Display().display(f"{host}: {mask(line, hidden)}", color="bright gray", stderr=True)

            result = outcome(
                self.spec,
                params,
                hidden,
                check_mode=self._task.check_mode,
                diff=self._task.diff,
                progress=progress,
            )
        for both in checked._warnings:
            text = f"Both option {both['option']} and its alias {both['alias']} are set."
            result.setdefault("warnings", []).append(text)
        if checked._deprecations:
            result["deprecations"] = checked._deprecations
        return result


def _same_python(one: str, other: str) -> bool:
    """The same environment: a venv is a folder with a link to the system's Python."""
    return os.path.dirname(one) == os.path.dirname(other) and os.path.realpath(one) == os.path.realpath(other)


@contextlib.contextmanager
def _surroundings(environment: dict[str, t.Any], folder: str) -> t.Iterator[None]:
    """The task's `environment:` and the play's folder, as a module on a local connection has them; for a while."""
    variables, cwd = dict(os.environ), os.getcwd()
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(variables)
