# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade changes in an InferenceService, and what it can't go to."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import release
from ansible_collections.gpuops.nim.plugins.module_utils._nim.release import BadRelease, Release, Wanted

LLAMA = "nvcr.io/nim/meta/llama3-8b-instruct"
PROFILE = "8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064d"


def isvc(*env: dict[str, Any], image: str = f"{LLAMA}:1.0.0", **predictor: Any) -> dict[str, Any]:
    main = {"name": "kserve-container", "image": image, "ports": [{"containerPort": 8000}], "env": list(env)}
    others = predictor.pop("others", [])
    return {"metadata": {"name": "llama"}, "spec": {"predictor": {**predictor, "containers": [*others, main]}}}


SECRET = {"name": "NGC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "NGC_API_KEY"}}}
CACHE, VERBOSE = {"name": "NIM_CACHE_PATH", "value": "/m"}, {"name": "NIM_VERBOSE", "value": "1"}


def test_only_image_and_profile_change_and_stand_where_a_deployment_has_them() -> None:
    before = isvc(SECRET, CACHE, VERBOSE)
    kept = copy.deepcopy(before)
    after = release.changed(before, Release(f"{LLAMA}:1.0.3", PROFILE))
    assert before == kept
    (main,) = after["spec"]["predictor"]["containers"]
    assert main.pop("image") == f"{LLAMA}:1.0.3"
    assert main.pop("env") == [SECRET, CACHE, {"name": "NIM_MODEL_PROFILE", "value": PROFILE}, VERBOSE]
    assert main == {"name": "kserve-container", "ports": [{"containerPort": 8000}]}
    assert release.changed(release.changed(before, Release(f"{LLAMA}:2", "p")), release.of(before)) == before


def test_containers_of_the_same_image_go_along_and_others_do_not() -> None:
    before = isvc(
        others=[{"name": "proxy", "image": "envoy:1"}],
        initContainers=[{"name": "nim-trust", "image": f"{LLAMA}:1.0.0"}, {"name": "wait", "image": "busybox:1"}],
    )
    predictor = release.changed(before, Release(f"{LLAMA}:1.0.3"))["spec"]["predictor"]
    assert [each["image"] for each in predictor["containers"]] == ["envoy:1", f"{LLAMA}:1.0.3"]
    assert [each["image"] for each in predictor["initContainers"]] == [f"{LLAMA}:1.0.3", "busybox:1"]


def test_the_image_of_a_model_format_is_changed_too() -> None:
    model = {"modelFormat": {"name": "nim"}, "image": f"{LLAMA}:1.0.0"}
    before = {"metadata": {}, "spec": {"predictor": {"model": model}}}
    assert release.of(before).image == f"{LLAMA}:1.0.0"
    after = release.changed(before, Release(f"{LLAMA}:1.0.3"))
    assert after["spec"]["predictor"]["model"] == {**model, "image": f"{LLAMA}:1.0.3"}


@pytest.mark.parametrize(
    ("now", "wanted", "then"),
    [
        (f"{LLAMA}:1.0.0", Wanted(tag="1.0.3"), f"{LLAMA}:1.0.3"),
        (f"{LLAMA}:1.0.0@sha256:{'0' * 64}", Wanted(tag="1.0.3"), f"{LLAMA}:1.0.3"),
        ("localhost:5000/nim/a", Wanted(tag="2"), "localhost:5000/nim/a:2"),
        ("nim/a:1", Wanted(tag="2"), "nim/a:2"),
        (f"{LLAMA}:1.0.0", Wanted(image="example.com/x:1"), "example.com/x:1"),
        (f"{LLAMA}:1.0.0", Wanted(profile="p"), f"{LLAMA}:1.0.0"),
    ],
)
def test_the_image_to_go_to(now: str, wanted: Wanted, then: str) -> None:
    assert release.next_of(Release(now), wanted).image == then


def test_a_profile_stays_where_its_id_means_the_same_and_is_asked_for_where_not() -> None:
    now = Release(f"{LLAMA}:1.0.0", PROFILE)
    assert release.next_of(now, Wanted(tag="1.0.3")).profile == PROFILE
    for wanted in (Wanted(tag="2.0.1"), Wanted(image="nvcr.io/nim/meta/llama-3.1-8b-instruct:1.1.0")):
        with pytest.raises(BadRelease) as stop:
            release.next_of(now, wanted)
        assert stop.value.option == "model_profile"
        assert "'' to let NIM choose" in stop.value.text
    assert release.next_of(now, Wanted(tag="2.0.1", profile="")) == Release(f"{LLAMA}:2.0.1")
    named = Release(f"{LLAMA}:1.0.0", "vllm-fp16-tp1")
    assert release.next_of(named, Wanted(tag="2.0.1")).profile == "vllm-fp16-tp1"


def test_a_runtimes_image_is_not_ours_to_change() -> None:
    with pytest.raises(BadRelease, match="serving runtime"):
        release.next_of(Release(""), Wanted(tag="1.0.3"))


def test_users_are_told_of_another_model_id_unless_they_never_saw_it() -> None:
    old, new = Release(f"{LLAMA}:1.0.0"), Release("nvcr.io/nim/meta/llama-3.1-8b-instruct:1.1.0")
    (note,) = release.notes(old, new)
    assert "from meta/llama3-8b-instruct to meta/llama-3.1-8b-instruct" in note
    assert release.notes(old, new, served="llama") == []
    assert release.notes(old, Release(f"{LLAMA}:1.0.3")) == []
