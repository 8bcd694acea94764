# SPDX-License-Identifier: GPL-3.0-or-later
"""Real programs as tests start and stop them: the ngc stand-in and what else listens on a free loopback port."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import select
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin

import pytest
import requests

from rehearsal.layout import Layout
from rehearsal.standins import ngc

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

Json = dict[str, Any]


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


def wait_for(pattern: str, lines: list[str], process: subprocess.Popen[str], seconds: float = 60) -> re.Match[str]:
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


def program(name: str) -> Path:
    """A program that the rehearsal builds."""
    for folder in Layout.from_environment().cache.glob(f"bin/{name}-*"):
        return folder / name
    pytest.fail(f"{name} is not built yet: python -m rehearsal build")


# --- images, put into a registry without a client's help, so that they can be of any kind
@dataclass
class Pusher:
    """Puts images into the registry at ``url`` with these headers. layers: their contents."""

    url: str
    headers: dict[str, str]
    verify: str | bool = True
    session: requests.Session = field(default_factory=requests.Session)

    def image(
        self,
        name: str,
        *,
        architecture: str = "amd64",
        labels: dict[str, str] | None = None,
        layers: Sequence[bytes] = (b"layer",),
    ) -> Json:
        """Push ``repository:tag``; returns its descriptor as an index holds it."""
        repository, _, tag = name.rpartition(":")
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": labels},
            "rootfs": {"type": "layers"},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": self._blob(repository, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [self._blob(repository, one, "application/vnd.oci.image.layer.v1.tar") for one in layers],
        }
        return self._manifest(repository, tag, manifest) | {"platform": {"architecture": architecture, "os": "linux"}}

    def index(self, name: str, images: Sequence[Json]) -> Json:
        repository, _, tag = name.rpartition(":")
        return self._manifest(repository, tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(images)})

    def _blob(self, repository: str, data: bytes, kind: str) -> Json:
        digest = _digest(data)
        place = self._do("POST", f"{self.url}/v2/{repository}/blobs/uploads/", 202).headers["Location"]
        where = urljoin(self.url, place) + ("&" if "?" in place else "?") + urlencode({"digest": digest})
        self._do("PUT", where, 201, data, "application/octet-stream")
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def _manifest(self, repository: str, tag: str, manifest: Json) -> Json:
        data = json.dumps(manifest).encode()
        self._do("PUT", f"{self.url}/v2/{repository}/manifests/{tag}", 201, data, manifest["mediaType"])
        return {"mediaType": manifest["mediaType"], "digest": _digest(data), "size": len(data)}

    def _do(self, method: str, url: str, status: int, data: bytes | None = None, kind: str = "") -> requests.Response:
        headers = {**self.headers, **({"Content-Type": kind} if kind else {})}
        answer = self.session.request(method, url, data=data, headers=headers, verify=self.verify, timeout=10)
        assert answer.status_code == status, answer.text
        return answer


def publisher(server: Ngc, *repositories: str) -> Pusher:
    """Pushes into the registry behind the ngc stand-in."""
    scopes = [("scope", f"repository:{name}:pull,push") for name in repositories]
    login = base64.b64encode(f"{ngc.USERNAME}:{ngc.KEYS['publisher']}".encode()).decode()
    said = server.ask(f"/proxy_auth?{urlencode(scopes)}", {"Authorization": f"Basic {login}"})
    return Pusher(server.url, {"Authorization": f"Bearer {json.loads(said.body)['token']}"}, str(server.ca))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# --- a proxy
class Proxy:
    """An HTTP proxy that only knows CONNECT. seen: what it was asked for, login included; status: what it answers."""

    def __init__(self, status: str = "200 OK") -> None:
        self.status = status
        self.seen: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.seen.append(head.decode())
            client.sendall(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
            if not self.status.startswith("200"):
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                both = {client: server, server: client}
                while True:
                    for one in select.select(list(both), [], [])[0]:
                        if not (data := one.recv(1 << 16)):
                            return
                        both[one].sendall(data)

    def close(self) -> None:
        self._socket.close()
