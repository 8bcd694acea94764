# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""A service in good order gives no finding, wherever it is: told from what a real cluster showed, change by change.

fixtures/deployment.jsonl is a deployment, a surge and three updates in place, two replicas and one again, a stop, a
start and the end, as record.py saw them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings, states

Object = dict[str, Any]
Frame = tuple[datetime, datetime, dict[str, list[Object]]]
RECORDED = Path(__file__).parent / "fixtures" / "deployment.jsonl"


def frames() -> Iterator[Frame]:
    """When the cluster was so, from and until, and its objects by kind."""
    changes = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    world: dict[str, Object] = {}
    for change, following in zip(changes, [*changes[1:], None], strict=True):
        at = datetime.fromisoformat(change.pop("at"))
        until = datetime.fromisoformat(following["at"]) if following else at + timedelta(minutes=1)
        if "gone" in change:
            del world[change["gone"]]
        else:
            key = change.pop("object")
            world[key] = {**world.get(key, {}), **change}
        if following and following["at"] == at.isoformat(timespec="milliseconds"):
            continue  # seen at once
        found: dict[str, list[Object]] = {}
        for obj in world.values():
            found.setdefault(obj["kind"], []).append(obj)
        yield at, until, found


def seen(world: dict[str, list[Object]]) -> states.Observed:
    return states.Observed(
        isvc=next(iter(world.get("InferenceService", ())), None),
        deployment=next(iter(world.get("Deployment", ())), None),
        replicasets=world.get("ReplicaSet", []),
        pods=world.get("Pod", []),
        events=world.get("Event", []),
    )


def around(world: dict[str, list[Object]]) -> findings.Around:
    return findings.Around(
        nodes={node["metadata"]["name"]: node for node in world["Node"]},
        pods=world.get("Pod", []),
        ingresses=world.get("Ingress", []),
        ingress_classes=world["IngressClass"],
        services=world.get("Service", []),
        endpoint_slices=world.get("EndpointSlice", []),
        autoscalers=[],
        secrets={"ngc-secret": "2026-11-25T02:00:00Z", "nvidia-nim-secrets": "2026-11-25T02:00:00Z"},
        verdict={"verdict": "valid", "cause": "", "remedy": ""},
    )


@pytest.fixture(scope="module")
def recorded() -> list[Frame]:
    return list(frames())


def test_the_recording_goes_through_all_states(recorded):
    told = Counter(states.status_of(None, seen(world)).state for _at, _until, world in recorded)
    assert set(told) == {"absent", "scheduling", "pulling", "starting", "loading", "ready", "stopped"}
    assert {len(world.get("Pod", ())) for *_when, world in recorded} >= {0, 1, 2}


def test_a_normal_deployment_has_no_finding(recorded):
    for at, until, world in recorded:
        now = seen(world)
        current = states.status_of(None, now).current
        for when in (at, until):
            found = findings.diagnose(now, current=current, around=around(world), now=when)
            assert found == [], when


def test_a_wait_is_never_ended_by_a_normal_deployment(recorded):
    for at, _until, world in recorded:
        now = seen(world)
        found = findings.find(now, current=states.status_of(None, now).current)
        assert [finding for finding in found if not finding.heals] == [], at


def test_a_model_may_load_for_as_long_as_it_wants(recorded):
    long_ = timedelta(minutes=25)
    loading = [(at, world) for at, _until, world in recorded if states.status_of(None, seen(world)).state == "loading"]
    looked = 0
    for at, world in loading:
        now = seen(world)
        waited_for = [pod for pod in states.newest(now)[1] if states.condition(pod, "Ready").get("status") != "True"]
        if waited_for and all("running" in states.main_container(pod).get("state", {}) for pod in waited_for):
            looked += 1
            assert findings.diagnose(now, around=around(world), now=at + long_) == []
            assert findings.find(now, around=around(world)) == []
    assert looked > 5


def test_what_is_normal_for_a_moment_is_not_for_long(recorded):
    """Endpoints come a moment after the pod is ready; the same would be a fault later."""
    later = Counter(
        (finding.id, finding.variant)
        for at, _until, world in recorded
        for finding in findings.diagnose(seen(world), around=around(world), now=at + timedelta(minutes=10))
    )
    assert later["serving", "no-endpoints"]
    assert later["controller-silent", "kserve"]
