# SPDX-License-Identifier: GPL-3.0-or-later
"""A breakable API server and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube import client as client_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

TOKEN = "token-that-nobody-may-see-0123456789"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """No kubeconfig, cluster or proxy of the machine that the tests run on."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def api() -> Iterator[FakeApiServer]:
    with FakeApiServer() as fake:
        yield fake


@pytest.fixture
def client(api: FakeApiServer) -> Client:
    return connect({"host": api.url, "api_key": TOKEN})


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PATIENCE", 0.5)
    monkeypatch.setattr(client_module, "FIRST_PATIENCE", 0.5)
