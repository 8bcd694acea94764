# SPDX-License-Identifier: GPL-3.0-or-later
"""A module's `main()` run in this process, on every supported ansible-core; the ngc stand-in and a real registry."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from ansible.module_utils import basic
from ansible.module_utils.common import warnings

from ansible_collections.gpuops.nim.tests.unit.standins import ROOT, Ngc, program, start, stop, wait_for
from rehearsal.standins import ngc

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
