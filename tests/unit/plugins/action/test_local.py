# SPDX-License-Identifier: GPL-3.0-or-later
"""What is particular to running inside Ansible's own process."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.gpuops.nim.plugins.plugin_utils import _local
from ansible_collections.gpuops.nim.tests.unit.plugins.action.conftest import Play, Played, Task


def secret(**task: Any) -> Task:
    return {
        "gpuops.nim.nim_secret": {"host": "{{ api_url }}", "api_key": "{{ token }}", "ngc_api_key": "{{ key }}"},
        **task,
    }


CREATED = "web: Secret ngc-secret in default: created"


def processes(played: Played) -> set[str]:
    """The tasks for which Ansible started a process (seen with -vvv)."""
    parts = played.stdout.split("TASK [")[1:]
    return {part.split("]")[0] for part in parts if "Using module file" in part} - {"Keep"}


def test_progress_goes_to_stderr_and_leaves_stdout_to_json_callbacks(play: Play) -> None:
    play.prepare({"web": {}, "db": {}})
    played = play([secret()])
    assert CREATED in played.stderr
    assert CREATED.replace("web", "db") in played.stderr
    assert CREATED not in played.stdout


def test_no_log_silences_progress(play: Play) -> None:
    play.prepare({"web": {}})
    played = play([secret(no_log=True)])
    assert played.results["web"]["task 0"]["changed"] is True
    assert CREATED not in played.stderr + played.stdout


def test_the_tasks_timeout_interrupts(play: Play) -> None:
    play.prepare({"web": {}})
    play.apis["web"].fault(path="/secrets/", hang=120)
    began = time.monotonic()
    played = play([secret(timeout=1), secret()])
    assert time.monotonic() - began < 60
    assert played.results["web"]["task 0"]["failed"] is True
    assert played.results["web"]["task 1"]["changed"] is True


def test_other_rights_another_python_or_the_background_mean_a_process(play: Play) -> None:
    play.prepare({"web": {}})
    this = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    cases = {
        "inside": secret(),
        "this python": secret(vars=this),
        "another python": secret(vars={"ansible_python_interpreter": str(play.python)}),
        "background": secret(**{"async": 30, "poll": 1}, vars=this),
    }
    played = play([{**task, "name": name} for name, task in cases.items()], "-vvv")
    results = played.results["web"]
    assert {name: results[name].get("msg") for name in cases if results[name].get("failed")} == {}
    actions = [[one["action"] for one in results[name]["secrets"]] for name in cases]
    assert actions == [["created"] * 2] + [["unchanged"] * 2] * 3
    assert processes(played) == {"another python", "background"}


def test_delegated_to_the_controller_it_runs_inside(play: Play) -> None:
    play.prepare({"far": {"ansible_connection": "ssh", "ansible_host": "192.0.2.1"}})
    played = play([secret(delegate_to="localhost")], "-vvv")
    assert played.results["far"]["task 0"]["changed"] is True
    assert processes(played) == set()
    assert "far: Secret ngc-secret" in played.stderr


def test_a_bug_shows_its_traceback(play: Play) -> None:
    play.prepare({"web": {}})
    play.apis["web"].fault(path="/secrets/", status=200, body=b"[]", times=9)
    played = play([secret()], "-vvv", env={"ANSIBLE_DISPLAY_TRACEBACK": "error"})
    assert played.results["web"]["task 0"]["failed"] is True
    assert "Traceback (most recent call last)" in played.stdout + played.stderr
    assert "TypeError" in played.stdout + played.stderr


def test_a_vaulted_key(play: Play) -> None:
    (play.folder / "pass").write_text("open sesame")
    play.prepare({"web": {}})
    key = b"nvapi-unit-vault-0123456789abcdefghijklmnop"
    text = VaultLib([("default", VaultSecret(b"open sesame"))]).encrypt(key).decode()
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    (play.folder / "vaulted.yml").write_text(f"key: !vault |\n{lines}")
    played = play([secret()], "--vault-password-file", "pass", "-e", "@vaulted.yml")
    assert played.results["web"]["task 0"]["changed"] is True, played.stderr
    stored = play.apis["web"].get("Secret", "default", "nvidia-nim-secrets")
    assert stored
    assert base64.b64decode(stored["data"]["NGC_API_KEY"]) == key


def test_environment_and_folder_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    before, cwd = dict(os.environ), Path.cwd()
    inside = []
    with contextlib.suppress(KeyError), _local._surroundings({"KEPT": 2, "NEW": True}, str(tmp_path)):
        inside = [os.environ["KEPT"], os.environ["NEW"], Path.cwd()]
        raise KeyError
    assert inside == ["2", "True", tmp_path]
    assert (dict(os.environ), Path.cwd()) == (before, cwd)
