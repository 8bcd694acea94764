# SPDX-License-Identifier: GPL-3.0-or-later
"""ngc_key_info as a play runs it, against the NGC and the registry of the rehearsal."""

from __future__ import annotations

import json
import stat
import sys

import pytest
import yaml

from rehearsal.layout import Layout, url
from rehearsal.standins.ngc import KEYS

from .conftest import TRACES

pytestmark = pytest.mark.rehearsal

LLAMA3, LLAMA31 = "nvcr.io/nim/meta/llama3-8b-instruct", "nvcr.io/nim/meta/llama-3.1-8b-instruct"
WRONG = "nvapi-rehearsal-of-nobody-0123456789abcdefghijklmnop"
NGC = url("ngc", "https")
WAY = {
    "registry_endpoints": dict.fromkeys(("nvcr.io", "api.ngc.nvidia.com", "authn.nvidia.com"), NGC),
    "registry_ca_cert": str(Layout.from_environment().ca),
}
NO_CLUSTER = {"K8S_AUTH_KUBECONFIG": "/nowhere", "KUBECONFIG": "/nowhere"}
ESTABLISHED = {
    "valid": "valid",
    "service": "valid",
    "legacy": "valid",
    "expired": "invalid",
    "unentitled": "not_entitled",
    "denied": "not_entitled",
    "blocked": "blocked",
}


def info(*images, **options):
    return {"gpuops.nim.ngc_key_info": {"images": list(images), **WAY, **options}}


def verdicts(result):
    return [image["verdict"] for image in result["images"]]


def test_each_kind_of_key_and_no_cluster_is_needed(play):
    tasks = [info(f"{LLAMA3}:1.0.0", ngc_api_key=KEYS[kind]) for kind in ESTABLISHED]
    played = play(*tasks, info(f"{LLAMA3}:1.0.0", ngc_api_key=WRONG), env=NO_CLUSTER)
    assert [verdicts(result)[0] for result in played.results] == [*ESTABLISHED.values(), "invalid"]
    assert not any(result["changed"] for result in played.results)
    assert f"{LLAMA3}:1.0.0: valid" in played.stderr
    assert KEYS["legacy"] not in json.dumps(played.results) + played.stderr
    kinds = {kind: result["key"]["kind"] for kind, result in zip(ESTABLISHED, played.results, strict=False)}
    assert (kinds["valid"], kinds["service"], kinds["legacy"]) == ("personal", "service", "legacy")


def test_check_ask_and_ask_again(play):
    task = info(f"{LLAMA3}:1.0.0", f"{LLAMA31}:2.0.12")
    checked, asked, again = (play(task, check=check, diff=True).result for check in (True, False, False))
    for result in (checked, asked, again):
        assert verdicts(result) == ["valid", "valid"]
        assert result["good"]
        assert not result["changed"]
        assert "diff" not in result
    llama3, llama31 = (image["facts"] for image in asked["images"])
    assert (llama3["line"], llama31["line"]) == ("1.0", "2.x")
    assert llama3["size"] > 1_000_000
    assert llama3["architectures"] == ["amd64"]
    assert llama3["classic"]


@pytest.mark.matrix
def test_every_way_of_running_gives_the_same(in_all_ways):
    volatile = ["at"]
    assert in_all_ways(info(f"{LLAMA3}:1.0.0"), volatile=volatile)["good"]
    assert in_all_ways(info(f"{LLAMA3}:1.0.0"), volatile=volatile, check=True)["good"]
    bad = in_all_ways(info(f"{LLAMA3}:1.0.1", f"{LLAMA3}:1.0.0", ngc_api_key=KEYS["expired"]), volatile=volatile)
    assert verdicts(bad) == ["invalid", "invalid"]
    missing = in_all_ways(info("nvcr.io/nim/meta/llama-3-8b-instruct:1.0.3"), volatile=volatile)
    assert missing["images"][0]["nearest"][0] == f"{LLAMA3}:1.0.3"
    refused = in_all_ways(info(f"{LLAMA3}:1.0.0", "nvcr.io/NIM/x:1", ngc_api_key="changeme"), fails=True)
    assert refused["msg"].startswith("images[1]: ")
    assert "ngc_api_key" in in_all_ways(info(ngc_api_key="changeme"), fails=True)["msg"]


def test_a_play_that_stops_at_a_bad_key_names_the_cause(play):
    key = info(f"{LLAMA3}:1.0.0", ngc_api_key=KEYS["unentitled"]) | {"register": "key"}
    message = "{{ key.images | rejectattr('good') | map(attribute='cause') | join(' ') }}"
    stop = {"ansible.builtin.assert": {"that": ["key.good"], "fail_msg": message}}
    _, stopped = play(key, stop, fails=None).results
    assert stopped["failed"]
    assert "no subscription for this image (402)" in stopped["msg"]


@pytest.mark.leak
@pytest.mark.parametrize("kind", ["valid", "expired", "legacy"])
def test_no_trace_of_a_key_in_argv_or_output_at_any_verbosity(run, tmp_path, kind):
    python, argv = tmp_path / "python", tmp_path / "argv"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {argv}\nexec {sys.executable} "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            info(f"{LLAMA3}:1.0.0", f"{LLAMA3}:9") | {"vars": {"ansible_python_interpreter": interpreter}}
            for interpreter in ("{{ ansible_playbook_python }}", str(python))
        ],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    env = {"NGC_API_KEY": KEYS[kind], "HOME": str(tmp_path)}
    done = run("ansible-playbook", "-i", "localhost,", "-vvvv", tmp_path / "play.yml", env=env)
    assert argv.read_text()
    for text in (done.stdout, done.stderr, argv.read_text()):
        for form in {*TRACES, KEYS["legacy"]}:
            assert form not in text


BLAMELESS = ("unavailable", "network", "rate_limited", "unknown")
FAULTS = {
    "429": ("--status", "429", "--retry-after", "60"),
    "500": ("--status", "500"),
    "hang": ("--hang",),
    "cut": ("--cut",),
    "no TLS": ("--refuse-tls",),
    "page": ("--html",),
    "elsewhere": ("--redirect", "http://127.0.0.1:1/"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_ngc_in_trouble_is_no_bad_key(play, rehearsal, fault):
    """In each step of the way, for a good key; and for a bad one, which NGC can't say that it is."""
    keys = (KEYS["valid"], KEYS["expired"])
    tasks = [info(f"{LLAMA3}:1.0.0", registry_timeout=1, ngc_api_key=key) for key in keys]
    for target in ("token", "manifest", "api", "all"):
        rehearsal("fault", target, *fault)
        good, bad = (result["images"][0] for result in play(*tasks).results)
        rehearsal("fault", "--clear")
        assert bad["verdict"] in BLAMELESS
        assert good["verdict"] in (["valid"] if target == "api" else BLAMELESS)
        assert good["evidence"]
        assert bad["evidence"]
    assert play(tasks[0]).result["good"]
