# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a play as users do, against an API server and a model on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

ROOT = Path(__file__).resolve().parents[4]
SECRETS = {
    "key": "nvapi-unit-first-0123456789abcdefghijklmnop",
    "other_key": "nvapi-unit-other-0123456789abcdefghijklmnop",
    "shown_key": "nvapi-unit-shown-0123456789abcdefghijklmnop",
    "hf": "hf_0123456789abcdefghijklmnop",
    "mirror_password": "pass-of-the-mirror",
    "token": "token-of-the-tests",
    "file_token": "token-of-the-file",
}
Task = dict[str, Any]


@dataclass
class Played:
    """What a play showed, and what each host registered by the task's name."""

    rc: int
    stdout: str
    stderr: str
    results: dict[str, dict[str, Any]]


class Play:
    """Every host has an API server of its own: its address is ``api_url``, its kubeconfig NAME.kubeconfig."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.apis: dict[str, FakeApiServer] = {}
        # the same Python under another name: for Ansible it is another one, so modules run as processes
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        self.python.chmod(0o755)

    def prepare(self, hosts: dict[str, dict[str, Any]]) -> None:
        inventory = {}
        for name, variables in hosts.items():
            api = self.apis[name] = FakeApiServer()
            api.start()
            config = {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                "users": [{"name": "u", "user": {"token": SECRETS["file_token"]}}],
            }
            (self.folder / f"{name}.kubeconfig").write_text(json.dumps(config))
            inventory[name] = {"ansible_connection": "local", "api_url": api.url, **variables}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": inventory}}))
        (self.folder / "secrets.yml").write_text(yaml.safe_dump(SECRETS))

    def __call__(self, tasks: list[Task], *args: str, env: dict[str, str] | None = None, **play: Any) -> Played:
        """Plays ``tasks`` for all hosts; ``play`` are keywords of the play, ``args`` of the command."""
        for index, task in enumerate(tasks):
            task.setdefault("name", f"task {index}")
            task.setdefault("ignore_errors", True)
            task["register"] = f"result_{index}"
        dump = {
            "name": "Keep",
            "ansible.builtin.copy": {
                "content": "{{ [" + ", ".join(task["register"] for task in tasks) + "] | to_json }}",
                "dest": f"{self.folder}/{{{{ inventory_hostname }}}}.json",
                "mode": "0600",
            },
            "delegate_to": "localhost",
            "diff": False,
            "check_mode": False,
        }
        book = self.folder / "play.yml"
        book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [*tasks, dump], **play}]))
        ran = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "-e", "@secrets.yml", "play.yml", *args],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_NOCOWS": "1",
                "ANSIBLE_ASYNC_DIR": f"{self.folder}/jobs",
                **(env or {}),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        results = {}
        for name in self.apis:
            kept = self.folder / f"{name}.json"
            if kept.exists():
                results[name] = dict(zip((task["name"] for task in tasks), json.loads(kept.read_text()), strict=True))
        return Played(ran.returncode, ran.stdout, ran.stderr, results)

    def stop(self) -> None:
        for api in self.apis.values():
            api.stop()


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    made = Play(tmp_path)
    yield made
    made.stop()


class _Model(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": "meta/llama3-8b-instruct"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._say({"choices": [{"message": {"content": "Paris."}, "finish_reason": "stop"}]})

    def _say(self, what: Any) -> None:
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
