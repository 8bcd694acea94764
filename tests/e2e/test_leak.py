# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that a run prints or leaves behind holds the key: plain, in base64, or in base64 of base64."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from rehearsal.standins.ngc import KEYS

pytestmark = [pytest.mark.rehearsal, pytest.mark.leak]

VALID = KEYS["valid"]
EXPIRED = KEYS["expired"]
SECOND = KEYS["second"]
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
def watched(run, folders, tmp_path):
    """Runs a playbook with a home of its own; fails where output, home or a report hold a key afterwards."""
    home, reports = tmp_path / "home", tmp_path / "reports"
    home.mkdir()
    reports.mkdir()

    def watched(*args: str | Path, rc: int = 0, **env: str):
        env |= {"HOME": str(home), **folders}
        done = run("ansible-playbook", *args, *NAMESPACE, rc=rc, env=env)
        written = {
            path: path.read_bytes() for folder in (home, reports) for path in folder.rglob("*") if path.is_file()
        }
        for place, text in {"stdout": done.stdout.encode(), "stderr": done.stderr.encode(), **written}.items():
            assert not [kind for kind, key in KEYS.items() if holds(text, key)], place
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
        done = watched("site.yml", "--tags", "key,secrets", "-vvvv", "--diff", mode, *args.get(source, ()), **env)
        assert "nvidia-nim-secrets" in done.stdout


def test_the_whole_line_with_all_that_can_be_shown(watched, tmp_path):
    shown = ("-vvvv", "--diff")
    done = watched("site.yml", *shown, NGC_API_KEY=VALID)
    assert "TASK [Summary]" in done.stdout
    files = {kind: tmp_path / "reports" / kind for kind in ("json", "report")}
    named = [option for kind, path in files.items() for option in ("-e", f"diagnose_{kind}={path}")]
    diagnose = ("playbooks/diagnose.yml", "-e", "diagnose_namespaces=leak", "-e", "diagnose_check_key=true", *named)
    watched(*diagnose, *shown)
    assert all(path.stat().st_size for path in files.values())
    rotate = ("playbooks/rotate_key.yml", "-e", "nim_predictor_rotate_namespaces=leak")
    assert "refuses this key" in watched(*rotate, *shown, rc=2, NGC_API_KEY=EXPIRED).stdout
    for mode in ("--check", "--diff"):
        assert "nvidia-nim-secrets" in watched(*rotate, *shown, mode, NGC_API_KEY=SECOND).stdout
    watched("playbooks/teardown.yml", *shown)


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/preflight.yml"])
def test_a_run_that_fails_because_of_its_key(watched, playbook):
    done = watched(playbook, "-vvvv", "--diff", rc=2, NGC_API_KEY=EXPIRED)
    assert "refuses this key" in done.stdout


def test_a_run_without_preflight_that_fails_because_of_its_key(watched):
    done = watched("site.yml", "-vvvv", "--diff", "--skip-tags", "preflight", rc=2, NGC_API_KEY=EXPIRED)
    assert "the registry refuses the key" in done.stdout


def test_an_upgrade_with_all_that_can_be_shown(watched):
    services = {"name": "llama3-8b-instruct", "image": "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0", "gpus": 0}
    watched("site.yml", "-e", json.dumps({"nim_predictor_services": [services]}), NGC_API_KEY=VALID)
    for tag, rc in (("1.0.3", 0), ("9.9.9", 2)):
        new = {**services, "image": f"nvcr.io/nim/meta/llama3-8b-instruct:{tag}"}
        variables = ("-e", json.dumps({"nim_predictor_services": [new]}))
        done = watched("playbooks/upgrade.yml", "-vvvv", "--diff", *variables, rc=rc)
        assert "ControllerRevision" in done.stdout or rc
