# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""What an upgrade records as the way back; that it is gone is tested on a real cluster."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import names, release
from ansible_collections.gpuops.nim.plugins.module_utils._ops import revisions, upgrade
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError
from ansible_collections.gpuops.nim.plugins.module_utils._ops.revisions import Revision
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

A, B, C = (f"nvcr.io/nim/meta/llama3-8b-instruct:1.0.{number}" for number in range(3))
RUNS = scene.wanted(image=B, memory="64Gi")


def recorded(image, upgrading=""):
    return [Revision("llama-1", 1, revisions.content_of(scene.wanted(image=image, memory="32Gi")), upgrading)]


@pytest.mark.parametrize(
    ("ready", "known", "back", "warning"),
    [
        (True, [], (B, "64Gi"), ""),
        (True, recorded(A), (B, "64Gi"), ""),
        (False, recorded(B), (B, "32Gi"), ""),
        (False, recorded(A, upgrading=B), (A, "32Gi"), ""),  # B never worked
        (False, recorded(A), (B, "64Gi"), f"the way back is to {B} as it is now"),  # B did, until today
        (False, [], None, "no way back"),
    ],
)
def test_the_way_back_is_to_what_worked_last(monkeypatch, ready, known, back, warning):
    unchanged = SimpleNamespace(changed=False, warnings=[])
    monkeypatch.setattr(revisions, "ensure", lambda client, obj, **how: unchanged)
    live = {**RUNS, "metadata": {**RUNS["metadata"], "uid": "u"}}
    service = upgrade.Upgrading(None, "default", "llama", live=live, known=known, ready=ready)
    service.before, service.after = release.of(live), release.Release(C)
    task = upgrade.Upgrade({"keep": 3}, [service], False, False, print)
    task.__dict__["client"] = None
    task._remember(service)
    content = service.known[0].content if service.known else None
    limits = content and content["spec"]["predictor"]["containers"][0]["resources"]["limits"]
    assert (content and (release.of(content).image, limits["memory"])) == back
    assert len(service.warnings) == bool(warning)
    assert warning in "".join(service.warnings)


def test_a_pod_that_a_rotation_has_set_aside_is_a_reason_not_to_begin():
    pod = scene.ready_pod(RUNS)
    client = SimpleNamespace(list=lambda *what, labels: SimpleNamespace(items=[pod]))
    service = upgrade.Upgrading(None, "default", "llama")
    task = upgrade.Upgrade({"keep": 3}, [service], False, False, print)
    task.__dict__["client"] = client
    task._refuse_rotated(service)
    pod["metadata"]["annotations"] = {names.ASIDE_ANNOTATION: "{}"}
    with pytest.raises(OpsError, match=f"{pod['metadata']['name']} aside.*rotate_key"):
        task._refuse_rotated(service)
    pod["metadata"]["deletionTimestamp"] = "2026-11-22T17:00:00Z"
    task._refuse_rotated(service)
