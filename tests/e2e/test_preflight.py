# SPDX-License-Identifier: GPL-3.0-or-later
"""preflight.yml, and the first phase of site.yml, as users run them."""

from __future__ import annotations

import json
import time

import pytest

from rehearsal.layout import Layout
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

WRONG = KEYS["valid"].replace("valid", "wrong")
NAMESPACE = "e2e-preflight"


@pytest.fixture
def writes():
    """What was to change anything in the cluster since, as `verb URI`."""
    log = Layout.from_environment().audit_log
    start = log.stat().st_size

    def writes():
        found = []
        with log.open("rb") as stream:
            stream.seek(start)
            for line in stream:
                event = json.loads(line)
                uri = event["requestURI"]
                reads = event["verb"] in ("get", "list", "watch") or "selfsubject" in uri or "dryRun=All" in uri
                if event.get("userAgent") == "gpuops.nim" and not reads:
                    found.append(f"{event['verb']} {uri}")
        return found

    return writes


def play(run, name, *args, key=KEYS["valid"], **more):
    # no GPU: other tests may have them all
    few = {"gpus": 0, "cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "ingress_address": "127.0.0.1:18080"}
    options = json.dumps({"nim_predictor_namespace": NAMESPACE, "nim_predictor_service_defaults": few})
    return run("ansible-playbook", name, "-e", options, *args, env={"NGC_API_KEY": key}, **more)


def test_the_table_of_a_service_that_can_come(run, writes):
    done = play(run, "playbooks/preflight.yml")
    table = done.stdout[done.stdout.index("What was found") :]
    for check in ("key", "cluster", "rights", "kserve", "ingress", "gpus", "storage"):
        assert f"ok       {check} " in table
    assert "failure" not in table
    assert "warning" not in table.lower()
    assert "changed=0" in done.stdout
    assert not writes()


def test_a_wrong_key_is_named_before_anything_is_written(run, writes):
    began = time.monotonic()
    done = play(run, "site.yml", key=WRONG, rc=2)
    print(f"a wrong key was named {time.monotonic() - began:.1f} s after the start of site.yml")
    assert "failure  key         nvcr.io/nim/meta/llama3-8b-instruct:1.0.0" in done.stdout
    assert "invalid" in done.stdout
    assert WRONG not in done.stdout + done.stderr
    assert "NGC key in every namespace" not in done.stdout
    assert not writes()


def test_what_stops_the_play(run):
    more = json.dumps({"nim_registry_endpoints": {"nvcr.io": "https://127.0.0.1:9"}})
    assert "could not be asked from here" in play(run, "playbooks/preflight.yml", "-e", more).stdout
    strict = ("-e", "nim_predictor_preflight_fail_on=warning")
    assert "There are warnings" in play(run, "playbooks/preflight.yml", "-e", more, *strict, rc=2).stdout
    never = ("-e", "nim_predictor_preflight_fail_on=never")
    assert "failure  key" in play(run, "playbooks/preflight.yml", *never, key=WRONG).stdout


@pytest.mark.parametrize("leave_out", [("--skip-tags", "preflight"), ("-e", "site_preflight=false")])
def test_it_can_be_left_out(run, leave_out):
    done = play(run, "site.yml", "--check", *leave_out)
    assert "What was found" not in done.stdout
    assert "seconds: secrets" in done.stdout


def test_the_summary_has_its_seconds(run):
    done = play(run, "site.yml", "--check")
    assert "ok       admission" in done.stdout
    assert "seconds: preflight " in done.stdout
