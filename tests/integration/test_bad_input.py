# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input, through the real modules: each has its own message, and nothing is sent because of any."""

from __future__ import annotations

from collections import Counter

import pytest

from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.bad_options import BAD
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
# what the types of the options themselves refuse, and what is wrong with the list
ENTRIES = [
    ({"gpus": "many"}, "gpus", "int"),
    ({"port": "http"}, "port", "int"),
    ({"enable_prometheus": "perhaps"}, "enable_prometheus", "bool"),
    ({"autoscaler_class": "mine"}, "autoscaler_class", "none, hpa, external, keda"),
    ({"affinity_policy": "pack"}, "affinity_policy", "none, spread, binpack"),
    ({"monitor": "node"}, "monitor", "service, pod"),
    ({"deployment_mode": "Knative"}, "deployment_mode", "RawDeployment"),
    ({"cache": {"path": "/m"}}, "cache", "claim"),
    ({"image_pull_policy": "Sometimes"}, "image_pull_policy", "IfNotPresent"),
    ({"env": "a"}, "env", "dict"),
    ({"gpu": 1}, "gpu", "did you mean gpus?"),
    ({"wait": False}, "wait", "belongs to the task as a whole"),
    ({"min_replicas": 1, "replicas": 1}, "replicas", "is the same as"),
]
SECRET = [
    ({"ngc_api_key": "changeme"}, "ngc_api_key", "placeholder"),
    ({"ngc_api_key": "nvapi-two words"}, "ngc_api_key", "white space"),
    ({"hf_token": "hf_x"}, "hf_token", "at least"),
    ({"namespaces": []}, "namespaces", "at least one"),
    ({"namespaces": ["My_Space"]}, "namespaces", "not a name for a namespace"),
    ({"pull_secret": "a b"}, "pull_secret", "not a Secret's name"),
    ({"runtime_secret": "ngc-secret"}, "pull_secret and runtime_secret", "different names"),
    ({"registries": []}, "registries", "at least one"),
    ({"registries": [{"host": "https://nvcr.io"}]}, "registries[0].host", "without https://"),
    ({"registries": [{"host": "nvcr.io", "password": ""}]}, "registries[0].password", "is empty"),
    ({"registries": [{"username": "me"}]}, "", "host"),
    ({"state": "gone"}, "", "present, absent"),
]
CHAT = [
    ({"name": None}, "", "name, address, services"),
    ({"max_tokens": 0}, "max_tokens", "1 or more"),
    ({"timeout": -5}, "timeout", "1 or more"),
    ({"temperature": 3}, "temperature", "0 to 2"),
    ({"prompt": " "}, "prompt", "is the question"),
    ({"messages": []}, "messages", "is the question"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "role and content"),
    ({"api": "ranking", "passages": []}, "passages", "puts them in order"),
    ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "", "mutually exclusive"),
    ({"tls_ca": "/no/such/file"}, "tls_ca", "there is no file"),
    ({"via": "apiserver", "name": None, "address": "127.0.0.1"}, "via", "needs the `name`"),
    ({"services": [{"name": "a", "prompts": "b"}], "name": None}, "services[0].prompts", "did you mean prompt"),
]


@pytest.fixture(scope="module")
def namespace(new_namespace):
    return new_namespace("bad")


def test_of_services(play, namespace, audit):
    cases = [*BAD, *ENTRIES]
    services = [{"name": f"a{number}", "image": IMAGE, **given} for number, (given, _, _) in enumerate(cases)]
    with audit(namespace) as seen:
        result = play({"gpuops.nim.nim_kserve": {"namespace": namespace, "services": services}}, fails=True).result
    lines = dict(line.split(": ", 1) for line in result["msg"].splitlines())
    for number, (_, option, words) in enumerate(cases):
        assert words in lines[f"services[{number}].{option}"]
    assert len(lines) == len(cases)
    assert not seen.requests
    # the same fault in two options may have the same words, but then the options differ
    texts = Counter((line.partition(".")[2], text) for line, text in lines.items())
    assert texts.most_common(1)[0][1] == 1


@pytest.mark.parametrize(("module", "good", "cases"), [("nim_secret", {}, SECRET), ("nim_chat", {"name": "a"}, CHAT)])
def test_of_secrets_and_questions(play, namespace, audit, module, good, cases):
    place = {"namespaces": [namespace], "ngc_api_key": KEYS["valid"]} if module == "nim_secret" else {}
    place = place or {"namespace": namespace}
    tasks = [{f"gpuops.nim.{module}": {**place, **good, **given}} for given, _, _ in cases]
    tasks = [{name: {k: v for k, v in options.items() if v is not None} for name, options in t.items()} for t in tasks]
    with audit(namespace) as seen:
        results = play(*tasks, fails=True).results
    for (_, option, words), result in zip(cases, results, strict=True):
        assert result["msg"].startswith(option)
        assert words in result["msg"]
    assert len({result["msg"] for result in results}) == len(cases)
    assert not seen.requests


def test_of_the_task_as_a_whole(play, namespace, audit):
    one, name = {"namespace": namespace, "image": IMAGE}, {"name": "a"}
    host = {"endpoint_host": "a.example.com"}
    cases = [
        ({**one, **name, "wait_timeout": -1}, "wait_timeout"),
        ({**one, **name, "unschedulable_grace": -1}, "unschedulable_grace"),
        ({**one, **name, "services": [name]}, "name: is given beside services"),
        ({**one, "services": [name, name]}, "is already services[0]"),
        ({**one, **host, "services": [name, {"name": "b"}]}, "endpoint_host: a.example.com is already"),
        ({**one, **name, "state": "up"}, "present, stopped, absent"),
        ({**one, **name, "state": "absent", "namespace": "A"}, "not a name for a namespace"),
        ({**one, **name, "colour": "green"}, "colour"),
    ]
    with audit(namespace) as seen:
        results = play(*({"gpuops.nim.nim_kserve": options} for options, _ in cases), fails=True).results
    for (_, words), result in zip(cases, results, strict=True):
        assert words in result["msg"]
    assert not seen.requests
