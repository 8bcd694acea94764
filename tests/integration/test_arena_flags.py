# SPDX-License-Identifier: GPL-3.0-or-later
"""Every row of docs/arena.md, deployed: what arena's flags mean here is what the cluster has then."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.arena_flags import FLAGS, IMAGE, Flag

pytestmark = pytest.mark.rehearsal

SERVICES = ("many", "share", "runtime")
KINDS = {
    "isvc": ("inferenceservice", ""),
    "deployment": ("deployment", "-predictor"),
    "configmap": ("configmap", "-files"),
    "hpa": ("hpa", "-hpa"),
    "service": ("service", "-metric-svc"),
    "servicemonitor": ("servicemonitor", "-svcmonitor"),
}
# nowhere to run, so the pods cost nothing
ASIDE = {"node_selector": {"example.com/gpu": "h200"}, "cpu": "50m", "memory": "128Mi", "share_memory": "16Mi"}


def options(service: str, namespace: str) -> dict[str, Any]:
    """All examples of one service as one."""
    merged: dict[str, Any] = {}
    for flag in FLAGS:
        if flag.service == service and not flag.refused:
            for name, value in flag.given.items():
                assert merged.setdefault(name, value) == value, f"{flag.flag}: two examples for one service"
    merged = json.loads(json.dumps(merged).replace("NAMESPACE", namespace).replace("NAME", service))
    taken = {"node_selector": "selector"}
    image = {} if service == "runtime" else {"image": IMAGE}
    aside = {name: value for name, value in ASIDE.items() if taken.get(name, name) not in merged}
    return {"name": service, "namespace": namespace, **image, **aside, **merged}


@pytest.fixture(scope="module")
def deployed(play, new_namespace, apply, objects, monitoring_crds, until):
    """Each place of the table, by service."""
    namespace = new_namespace("arena")
    container = {
        "name": "kserve-container",
        "image": IMAGE,
        "ports": [{"containerPort": 8000, "protocol": "TCP"}],
        "env": [{"name": "OF_THE_RUNTIME", "value": "yes"}],
        "args": ["--of-the-runtime"],
    }
    formats = [{"name": "nvidia-nim-llama3-8b-instruct", "version": "1", "autoSelect": True}]
    apply(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ServingRuntime",
            "metadata": {"name": "nim", "namespace": namespace},
            "spec": {
                "supportedModelFormats": formats,
                "protocolVersions": ["openai"],
                "containers": [container],
                "nodeSelector": {"of": "the-runtime"},
            },
        }
    )
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    metadata = {"name": "models", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
    tasks = [{"gpuops.nim.nim_kserve": {"wait": False, **options(service, namespace)}} for service in SERVICES]
    play(*tasks)
    pods = until(lambda: _pods(objects("pods", namespace)), "a pod of each service")
    again = play(*tasks)
    found = {service: {"pod": pods[service]["spec"], "pod metadata": pods[service]["metadata"]} for service in SERVICES}
    for places in found.values():
        places["container"] = next(c for c in places["pod"]["containers"] if c["name"] == "kserve-container")
    for place, (kind, suffix) in KINDS.items():
        live = objects(kind, namespace)
        for service, places in found.items():
            places[place] = live.get(service + suffix)
    return namespace, found, [result["changed"] for result in again.results]


def _pods(pods: dict[str, Any]) -> dict[str, Any]:
    """One of each service, once all have one."""
    label = "serving.kserve.io/inferenceservice"
    found = {pod["metadata"]["labels"][label]: pod for pod in pods.values()}
    return found if set(found) == set(SERVICES) else {}


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if not flag.refused], ids=lambda flag: flag.flag)
def test_a_flag_does_what_the_table_says(deployed, flag: Flag):
    namespace, found, _ = deployed
    wanted = json.loads(json.dumps(flag.has).replace("NAMESPACE", namespace).replace("NAME", flag.service))
    assert wanted
    for place, fragment in wanted.items():
        live = found[flag.service][place]
        assert _holds(fragment, live), f"{place}: {json.dumps(fragment)} is not in {json.dumps(live)}"


def test_the_same_again_changes_nothing(deployed):
    assert deployed[2] == [False, False, False]


def test_what_arena_ignores_is_refused_all_at_once(play, name_namespace, audit):
    namespace = name_namespace("arena-refused")
    given: dict[str, Any] = {}
    for flag in FLAGS:
        given |= flag.given if flag.refused else {}
    with audit(namespace) as seen:
        refused = {"name": "a", "namespace": namespace, "image": IMAGE, **given}
        message = play({"gpuops.nim.nim_kserve": refused}, fails=True).result["msg"]
    lines = {line.partition(": ")[0]: line for line in message.splitlines()}
    for flag in FLAGS:
        assert not flag.refused or flag.refused in lines[flag.option]
    assert len(lines) == len(given)
    assert not seen.requests


def _holds(wanted: Any, live: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(_holds(value, live.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and all(any(_holds(item, one) for one in live) for item in wanted)
    return bool(wanted == live)
