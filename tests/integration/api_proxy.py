# SPDX-License-Identifier: GPL-3.0-or-later
"""The real API server behind an address where a test decides what becomes of each request."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import yaml

from rehearsal.layout import Layout, url

RESET = "reset"
Verdict = str | tuple[int, dict[str, str]] | None
_LINGER_NOT = struct.pack("ii", 1, 0)  # a close is a reset


class ApiProxy:
    """``before`` and ``after`` are asked with method and path, before a request is sent on and before it is answered.

    They say ``None`` to let it through, ``RESET``, or a status with headers to answer in place of the server.
    """

    def __init__(self, layout: Layout) -> None:
        self.before: Callable[[str, str], Verdict] = lambda method, path: None
        self.after: Callable[[str, str], Verdict] = lambda method, path: None
        self.open: set[socket.socket] = set()
        pki = layout.state / "pki"
        self.tls = ssl.create_default_context(cafile=str(layout.ca))
        self.tls.load_cert_chain(pki / "kubelet-client.crt", pki / "kubelet-client.key")  # of system:masters

    def __enter__(self) -> ApiProxy:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def kubeconfig(self) -> str:
        """For a file."""
        server = f"http://127.0.0.1:{self._server.server_port}"
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "proxy",
                "clusters": [{"name": "proxy", "cluster": {"server": server}}],
                "users": [{"name": "nobody", "user": {}}],
                "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
            }
        )

    def reset_all(self) -> int:
        """Reset every connection that is open; how many they were."""
        hit = list(self.open)
        for each in hit:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                os.close(each.detach())
        return len(hit)


class _Handler(BaseHTTPRequestHandler):
    owner: ApiProxy
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.owner.open.add(self.connection)

    def finish(self) -> None:
        self.owner.open.discard(self.connection)
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # the connection was reset under our hands
            self.close_connection = True

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._hindered(self.owner.before(self.command, self.path)):
            return
        place = urlsplit(url("apiserver", "https"))
        upstream = http.client.HTTPSConnection(place.hostname or "", place.port, context=self.owner.tls, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        upstream.request(self.command, self.path, body or None, headers)
        answer = upstream.getresponse()
        if self._hindered(self.owner.after(self.command, self.path)):
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while chunk := answer.read1(65536):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")
        upstream.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def _hindered(self, verdict: Verdict) -> bool:
        if verdict is None:
            return False
        if verdict == RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self.close_connection = True
            return True
        status, headers = verdict
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
        return True

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is its own."""
