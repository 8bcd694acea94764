# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that a run prints or leaves behind holds the key: plain, in base64, or in base64 of base64."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from rehearsal.standins.ngc import KEYS

pytestmark = [pytest.mark.rehearsal, pytest.mark.leak]

VALID = KEYS["valid"]
EXPIRED = KEYS["expired"]
NAMESPACE = ("-e", "nim_predictor_namespace=leak")
TOKEN = re.compile(rb"[A-Za-z0-9+/]{16,}")


def holds(data: bytes, key: str, depth: int = 2) -> bool:
    """The key is in `data`, or in what its words are base64 of: Secrets hold docker configs that hold base64."""
    if key.encode() in data:
        return True
    if not depth:
        return False
    for word in TOKEN.findall(data):
        for start in range(4):
            part = word[start:]
            if holds(base64.b64decode(part + b"A" * (-len(part) % 4)), key, depth - 1):
                return True
    return False


def test_the_search_finds_all_forms():
    docker = base64.b64encode(f'{{"auth": "{base64.b64encode(f"$oauthtoken:{VALID}".encode()).decode()}"}}'.encode())
    for found in (VALID.encode(), base64.b64encode(VALID.encode()), base64.b64encode(f"a: {VALID}".encode()), docker):
        assert holds(b"some text, " + found + b", more text", VALID)
    assert not holds(base64.b64encode(b"something else altogether"), VALID)


@pytest.fixture
def watched(run, root, state, tmp_path):
    """Runs a playbook with a home of its own; fails where output or home hold the key afterwards."""
    home = tmp_path / "home"
    home.mkdir()

    def watched(key: str, *args: str | Path, rc: int = 0, **env: str):
        env |= {"HOME": str(home), "GPUOPS_NIM_STATE": str(state)}
        done = run("ansible-playbook", *args, *NAMESPACE, rc=rc, env=env)
        assert not holds(done.stdout.encode(), key)
        assert not holds(done.stderr.encode(), key)
        for path in home.rglob("*"):
            assert not (path.is_file() and holds(path.read_bytes(), key)), path
        return done

    yield watched
    run("ansible-playbook", "playbooks/teardown.yml", *NAMESPACE, "-e", "teardown_cache=true")


@pytest.mark.parametrize("source", ["environment", "file", "variable"])
def test_secrets_with_all_that_can_be_shown(watched, tmp_path, source):
    (tmp_path / "key").write_text(VALID + "\n")
    (tmp_path / "vars.yml").write_text(f"ngc_api_key: {VALID}\n")
    args = {"file": ("-e", f"ngc_api_key_file={tmp_path}/key"), "variable": ("-e", f"@{tmp_path}/vars.yml")}
    env = {"NGC_API_KEY": VALID} if source == "environment" else {}
    for mode in ("--check", "--diff"):
        done = watched(
            VALID, "site.yml", "--tags", "key,secrets", "-vvvv", "--diff", mode, *args.get(source, ()), **env
        )
        assert "nvidia-nim-secrets" in done.stdout


def test_the_whole_line_with_all_that_can_be_shown(watched):
    done = watched(VALID, "site.yml", "-vvvv", "--diff", NGC_API_KEY=VALID)
    assert "TASK [Summary]" in done.stdout
    watched(VALID, "playbooks/teardown.yml", "-vvvv", "--diff")


def test_a_run_that_fails_because_of_its_key(watched):
    done = watched(EXPIRED, "site.yml", "-vvvv", "--diff", rc=2, NGC_API_KEY=EXPIRED)
    assert "key" in done.stdout
