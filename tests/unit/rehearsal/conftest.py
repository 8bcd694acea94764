# SPDX-License-Identifier: GPL-3.0-or-later
"""Real programs on free loopback ports: the ngc stand-in, a registry behind it where one is built, the nim stand-in."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from rehearsal.layout import Layout
from rehearsal.standins import ngc

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes


@dataclass
class Ngc:
    """A running ngc stand-in. control: its state file; log: what it printed so far."""

    url: str
    ca: Path
    control: Path
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def ask(self, path: str, headers: dict[str, str] | None = None, data: bytes | None = None, **more: Any) -> Answer:
        """One request; every status is an answer. Raises OSError when there is none within the timeout (10 s)."""
        request = urllib.request.Request(self.url + path, data, headers or {}, **more)
        context = ssl.create_default_context(cafile=str(self.ca))
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(request, timeout=10) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())


def start(command: list[str], **more: Any) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a program; its output is collected line by line in the list."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(process.stdout or []), daemon=True).start()
    return process, lines


def wait_for(pattern: str, lines: list[str], process: subprocess.Popen[str], seconds: float = 10) -> re.Match[str]:
    """The first match in the output; fails with the output when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if match := re.search(pattern, "".join(lines)):
            return match
        time.sleep(0.01)
    pytest.fail(f"no {pattern!r} in:\n{''.join(lines)}")


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, server.crt/.key and signing.crt/.key."""
    folder = tmp_path_factory.mktemp("pki")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.crt"))
    for name in ("server", "signing"):
        leaf = ca.issue_cert("127.0.0.1", "localhost")
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return folder


def program(name: str) -> Path:
    """A program that the rehearsal builds."""
    for folder in Layout.from_environment().cache.glob(f"bin/{name}-*"):
        return folder / name
    pytest.fail(f"{name} is not built yet: python -m rehearsal build")


@pytest.fixture(scope="session")
def registry_address() -> str:
    """Where the registry of these tests is to listen; the ngc stand-in needs to know it from its start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="session")
def _ngc(pki: Path, tmp_path_factory: pytest.TempPathFactory, registry_address: str) -> Iterator[Ngc]:
    control = tmp_path_factory.mktemp("ngc") / "state.json"
    command = [sys.executable, "-m", "rehearsal.standins.ngc", "--listen", "127.0.0.1:0", "--control", str(control)]
    command += ["--registry", registry_address, "--cert", str(pki / "server.crt"), "--key", str(pki / "server.key")]
    command += ["--signing-cert", str(pki / "signing.crt"), "--signing-key", str(pki / "signing.key")]
    process, log = start(command, cwd=ROOT)
    try:
        address = wait_for(r"listening on (\S+)", log, process)[1]
        yield Ngc(f"https://{address}", pki / "ca.crt", control, process, log)
    finally:
        stop(process)


@pytest.fixture(scope="session")
def registry(_ngc: Ngc, pki: Path, registry_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry that trusts the ngc stand-in's tokens; host:port as a client sees it."""
    folder = tmp_path_factory.mktemp("registry")
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": registry_address},
        "auth": {
            "token": {
                "realm": f"{_ngc.url}/proxy_auth",
                "service": ngc.SERVICE,
                "issuer": ngc.ISSUER,
                "rootcertbundle": str(pki / "signing.crt"),
            }
        },
    }
    (folder / "config.yml").write_text(json.dumps(config))
    process, log = start([str(program("registry")), "serve", str(folder / "config.yml")])
    try:
        wait_for("listening on", log, process)
        yield _ngc.url.removeprefix("https://")
    finally:
        stop(process)


@pytest.fixture
def ngc_server(_ngc: Ngc) -> Ngc:
    """The ngc stand-in with nothing told to it."""
    _ngc.control.unlink(missing_ok=True)
    with ngc.editing(_ngc.control) as state:
        state.model_bytes = 1 << 20
    _ngc.log.clear()
    return _ngc
