# SPDX-License-Identifier: GPL-3.0-or-later
"""The same play, once inside Ansible's own process and once with modules as processes: users see the same."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from ansible_collections.gpuops.nim.tests.unit.plugins.action.conftest import SECRETS, Play, Task

OTHER, MIRROR = "{{ other_key }}", "{{ mirror_password }}"


def secret(name: str, options: dict[str, Any], **task: Any) -> Task:
    given = {"host": "{{ api_url }}", "api_key": "{{ token }}", "ngc_api_key": "{{ key }}", **options}
    module = {option: value for option, value in given.items() if value is not None}
    return {"name": name, "gpuops.nim.nim_secret": module, **task}


def chat(name: str, model: str, options: dict[str, Any], **task: Any) -> Task:
    module = {"address": model, "stream": False, **options}
    return {"name": name, "gpuops.nim.nim_chat": module, **task}


def tasks(model: str) -> list[Task]:
    return [
        secret("would create", {}, check_mode=True),
        secret("create", {}),
        secret("again", {}),
        secret("would change", {"ngc_api_key": OTHER}, check_mode=True),
        secret("change", {"ngc_api_key": OTHER, "hf_token": "{{ hf }}"}),
        secret("mirror", {"registries": [{"host": "r.example.com", "username": "u", "password": MIRROR}]}),
        secret("two", {"namespaces": ["a", "b"], "create_namespace": True}),
        secret("one fails", {"namespaces": ["nowhere", "a"]}),
        secret("bad key", {"ngc_api_key": "<your key>"}),
        secret("no key", {"ngc_api_key": None}),
        secret("from the environment", {"ngc_api_key": None, "host": None}, environment={
            "NGC_API_KEY": "{{ shown_key }}", "K8S_AUTH_HOST": "{{ api_url }}",
        }),
        secret("both names", {"namespace": "a", "namespaces": ["b"]}),
        secret("unknown option", {"colour": "red"}),
        secret("wrong type", {"registries": [{"host": "x", "password": {"a": 1}, "why": True}]}),
        secret("wrong choice", {"state": "maybe"}),
        secret("in a folder", {"host": None, "api_key": None, "kubeconfig": "{{ inventory_hostname }}.kubeconfig"}),
        secret("no such kubeconfig", {"host": None, "api_key": None, "kubeconfig": "missing"}),
        secret("hidden", {}, no_log=True),
        secret("remove", {"state": "absent"}),
        {"name": "group", "gpuops.nim.nim_secret": {"ngc_api_key": "{{ key }}"}, "module_defaults": {
            "group/gpuops.nim.nim": {"host": "{{ api_url }}", "api_key": "{{ token }}"},
        }},
        chat("ask", model, {"prompt": "Capital?"}),
        chat("would ask", model, {}, check_mode=True),
        chat("ask the wrong one", model, {"model": "x"}),
        chat("ask two ways", model, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}),
        chat("ask nobody", "127.0.0.1:1", {}),
        {"name": "ask without options", "gpuops.nim.nim_chat": {}},
    ]  # fmt: skip


def plain(result: Any, api_url: str) -> Any:
    """Without what differs from run to run: ports, salts, seconds; and without Ansible's own additions."""
    text = json.dumps({key: value for key, value in result.items() if key not in ("exception", "ansible_parsed")})
    text = text.replace(api_url, "API")
    text = re.sub(r'"(seconds\w*)": [\d.]+', r'"\1": 0', text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "FINGERPRINT", text)
    return json.loads(re.sub(r'"gpuops.nim/salt": "[0-9a-f]+"', '"gpuops.nim/salt": "SALT"', text))


def traces(secret: str) -> list[str]:
    """The secret, and the middle of what it becomes in base64 and in base64 of base64, wherever it stands there."""
    found = [secret]
    for text in (secret, *encoded(secret)):
        found += encoded(text)
    return found


def encoded(text: str) -> list[str]:
    return [base64.b64encode(b"x" * before + text.encode() + b"xx").decode()[4:-8] for before in range(3)]


def test_both_ways_give_the_same(play: Play, model: str) -> None:
    play.prepare({"inside": {}, "process": {"ansible_python_interpreter": str(play.python)}})
    played = play(tasks(model), "--diff", "-vvvv")
    assert played.rc == 0, played.stdout + played.stderr

    # the first really ran inside and the second really did not
    assert "<inside> EXEC" not in played.stdout
    assert played.stdout.count("<process> EXEC") > 20

    inside, process = (
        {name: plain(result, play.apis[host].url) for name, result in played.results[host].items()}
        for host in ("inside", "process")
    )
    for name, result in inside.items():
        assert result == process[name], name

    # and it is what the tasks are there for
    failed = {name for name, result in inside.items() if result.get("failed")}
    assert failed == {
        "one fails", "bad key", "no key", "unknown option", "wrong type", "wrong choice", "no such kubeconfig",
        "ask the wrong one", "ask two ways", "ask nobody", "ask without options",
    }  # fmt: skip
    changed = {name for name, result in inside.items() if result["changed"]}
    assert changed == {
        "would create", "create", "would change", "change", "mirror", "two", "from the environment", "remove", "group",
        "in a folder",
    }  # fmt: skip
    assert inside["ask"]["answer"] == "Paris."
    assert '"invocation"' not in played.stdout.split("TASK [Keep]")[0]
    assert "Both option" in json.dumps(inside["both names"]["warnings"])
    sent = [[(r.method, r.path) for r in play.apis[host].requests] for host in ("inside", "process")]
    assert sent[0] == sent[1]

    # no trace of a key, in any form
    everything = played.stdout + played.stderr + json.dumps(played.results)
    # (but Ansible itself shows a task's `environment:` when it starts a process)
    everything = re.sub(r"<process> EXEC .*", "", everything)
    for name, value in SECRETS.items():
        for trace in traces(value):
            assert trace not in everything, name
