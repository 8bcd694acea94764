# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificate is used for a real TLS handshake here."""

from __future__ import annotations

import base64
import datetime
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ops import webhook_certificate

HOST = "kserve-webhook-server-service.kserve.svc"


def secret(live: dict[str, Any] | None = None, host: str = HOST) -> dict[str, Any]:
    return webhook_certificate.secret("cert", "kserve", host, live)


def data(made: dict[str, Any]) -> dict[str, bytes]:
    return {name: base64.b64decode(text) for name, text in made["data"].items()}


def test_a_client_that_trusts_it_talks_to_the_host_it_names(tmp_path: Path) -> None:
    made = data(secret())
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    near, far = socket.socketpair()
    far.settimeout(5)

    def answer() -> None:
        with server.wrap_socket(near, server_side=True) as tls:
            tls.sendall(b"hello")

    thread = threading.Thread(target=answer)
    thread.start()
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with client.wrap_socket(far, server_hostname=HOST) as tls:
        assert tls.recv(5) == b"hello"
    thread.join()


def test_a_good_one_stays_and_others_are_made_anew() -> None:
    first = secret()
    assert secret(first) == first
    other_host = secret(first, "other.svc")
    assert data(other_host)["tls.crt"] != data(first)["tls.crt"]
    for damage in ({"tls.key": ""}, {"tls.crt": "bm8="}, {"tls.key": secret()["data"]["tls.key"]}, {"ca.crt": ""}):
        again = secret({**first, "data": {**first["data"], **damage}})
        assert data(again)["tls.crt"] != data(first)["tls.crt"], damage
        assert webhook_certificate.good(data(again), HOST)


def test_it_is_renewed_in_time_and_the_old_one_is_trusted_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    first = secret()
    now = datetime.datetime.now(datetime.timezone.utc)
    days = webhook_certificate.VALID.days - webhook_certificate.RENEW.days
    for passed, stays in ((days - 1, True), (days + 1, False)):
        later = now + datetime.timedelta(days=passed)
        monkeypatch.setattr(webhook_certificate, "_now", lambda later=later: later)
        assert (secret(first) == first) is stays
    renewed = data(secret(first))
    assert renewed["ca.crt"] == renewed["tls.crt"] + data(first)["tls.crt"]
    monkeypatch.setattr(webhook_certificate, "_now", lambda: now + webhook_certificate.VALID * 2)
    late = data(secret(first))
    assert late["ca.crt"] == late["tls.crt"]  # nobody can have the old one any more
