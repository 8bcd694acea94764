# SPDX-License-Identifier: GPL-3.0-or-later
"""nim_kserve on a real KServe: what comes up, what is said of what doesn't, and what is left alone."""

from __future__ import annotations

from datetime import datetime

import pytest

from rehearsal.layout import url
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct"
EMBED = "nvcr.io/nim/nvidia/nv-embedqa-e5-v5:1.0.0"
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}
VOLATILE = ("waited",)


def kserve(namespace: str, *services, **options):
    """The task; services beside `SMALL` options, or one whose name is in the options."""
    listed = {"services": list(services)} if services else {"image": f"{IMAGE}:1.0.0"}
    ingress = url("ingress").removeprefix("http://")
    options = {"namespace": namespace, "ingress_address": ingress, **SMALL, **listed, **options}
    return {"gpuops.nim.nim_kserve": options}


def secret(namespace: str, key: str = "valid", **options):
    return {"gpuops.nim.nim_secret": {"namespace": namespace, "ngc_api_key": KEYS[key], **options}}


def by_name(result):
    return {service["name"]: service for service in result["services"]}


def one(result):
    (service,) = result["services"]
    return service


@pytest.fixture(scope="module")
def space(play, new_namespace):
    """A namespace with both Secrets."""
    namespace = new_namespace("kserve")
    play(secret(namespace))
    return namespace


# -- two services through check, real, real, and check with diff


@pytest.fixture(scope="module")
def rounds(play, name_namespace, audit, kubectl):
    """The four runs of one task with two services, in a namespace that the first real run makes."""
    namespace = name_namespace("kserve-list")
    patch = {
        "terminationGracePeriodSeconds": 7,
        "containers": [{"name": "kserve-container", "env": [{"name": "NIM_LOG_LEVEL", "value": "INFO"}]}],
    }
    services = (
        {"name": "llama", "image": f"{IMAGE}:1.0.0", "cache": {"claim": "models", "size": "1Gi"}},
        {"name": "embed", "image": EMBED, "env": {"NIM_LOG_LEVEL": "DEBUG"}, "pod_patch": patch},
    )
    tasks = secret(namespace, create_namespace=True), kserve(namespace, *services, create_namespace=True)
    found = {"namespace": namespace, "task": tasks[1]}
    found["checked"] = play(*tasks, check=True)
    found["after_check"] = kubectl("get", "namespace", "--ignore-not-found", namespace)
    with audit(namespace) as found["first_audit"]:
        found["first"] = play(*tasks)
    with audit(namespace) as found["second_audit"]:
        found["second"] = play(*tasks)
    found["diffed"] = play(*tasks, check=True, diff=True)
    return found


def test_check_mode_before_there_is_a_namespace(rounds):
    checked = rounds["checked"].result
    assert checked["changed"]
    assert [service["action"] for service in checked["services"]] == ["created", "created"]
    assert any(rounds["namespace"] in warning and "yet" in warning for warning in checked["warnings"])
    assert not rounds["after_check"]


@pytest.mark.matrix
def test_a_list_is_deployed_until_all_of_it_is_ready(rounds):
    made = rounds["first"].result
    assert made["changed"]
    assert rounds["first_audit"].writes
    for name, model in (("llama", "meta/llama3-8b-instruct"), ("embed", "nvidia/nv-embedqa-e5-v5")):
        service = by_name(made)[name]
        assert (service["action"], service["state"], service["model"]) == ("created", "ready", model)
        assert service["host"] == f"{name}-{rounds['namespace']}.example.com"
        assert set(service["phases"]) == {"scheduled", "pulled", "started", "ready"}
        assert f"[{rounds['namespace']}/{name}] ready" in rounds["first"].stderr


def test_the_curl_line_works(rounds, run):
    assert '"choices"' in run("bash", "-c", by_name(rounds["first"].result)["llama"]["curl"]).stdout


@pytest.mark.matrix
def test_again_it_changes_and_writes_nothing(rounds):
    again = rounds["second"].result
    assert not again["changed"]
    assert {service["action"] for service in again["services"]} == {"unchanged"}
    assert rounds["second_audit"].requests
    assert not rounds["second_audit"].writes


@pytest.mark.matrix
def test_check_and_diff_of_nothing(rounds):
    assert not rounds["diffed"].result["changed"]
    assert "diff" not in rounds["diffed"].result


@pytest.mark.matrix
def test_every_way_of_running_gives_the_same(rounds, in_all_ways):
    namespace, task = rounds["namespace"], rounds["task"]
    assert not in_all_ways(task, volatile=VOLATILE)["changed"]
    bigger = kserve(namespace, name="llama", cpu="60m")
    assert in_all_ways(bigger, check=True, diff=True, volatile=VOLATILE)["diff"]
    wrong = in_all_ways(kserve(namespace, {"name": "llama", "gpus": "many"}), fails=True)
    assert wrong["msg"].startswith("services[0].")


def test_the_patch_has_the_last_word(rounds, objects):
    (pod,) = [
        pod["spec"] for name, pod in objects("pods", rounds["namespace"]).items() if name.startswith("embed-predictor")
    ]
    env = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert pod["terminationGracePeriodSeconds"] == 7
    assert env["NIM_LOG_LEVEL"] == "INFO"
    assert "NGC_API_KEY" in env


def test_bad_entries_are_named_before_anything_is_sent(play, rounds, audit):
    services = [
        {"name": "a", "image": EMBED},
        {"name": "b", "image": EMBED, "gpus": "many"},
        {"name": "c", "imag": "x"},
    ]
    with audit(rounds["namespace"]) as seen:
        message = play(kserve(rounds["namespace"], *services), fails=True).result["msg"]
    assert "services[1].gpus: " in message
    assert "services[2].imag: there is no such option for a service; did you mean image?" in message
    assert "services[0]" not in message
    assert not seen.requests


# -- what does not come up


@pytest.fixture(scope="module")
def broken(play, space):
    """One task with services that fail in different ways, and one that works between them."""
    services = [
        {"name": "crash", "env": {"NIM_STANDIN_FAIL": "driver"}},
        {"name": "memory", "env": {"NIM_STANDIN_FAIL": "oom"}},
        {"name": "works"},
        {"name": "config", "env_from_secret": {"NGC_API_KEY": "no-such-secret"}},
        {"name": "huge", "gpus": 99},
        {"name": "denied", "pod_patch": {"containerConcurrency": -1}},
    ]
    services = [{"image": f"{IMAGE}:1.0.0", **service} for service in services]
    result = play(kserve(space, *services, unschedulable_grace=3), fails=True).result
    return result["msg"], by_name(result)


@pytest.mark.parametrize(
    ("name", "finding", "cause", "remedy"),
    [
        ("crash", "crash-loop", "driver", "what to do: "),
        ("memory", "out-of-memory", "memory limit of 128Mi", "set memory higher"),
        ("config", "config-error", "no-such-secret", "nim_secret"),
        ("huge", "unschedulable", ", and no node has more than", "lower gpus"),
    ],
)
def test_the_cause_and_the_remedy_are_told(broken, name, finding, cause, remedy):
    message, services = broken
    assert services[name]["findings"][0]["id"] == finding
    assert services[name]["state"] == "failed"
    for text in (cause, remedy):
        assert text.lower() in services[name]["error"].lower()
    assert services[name]["error"] in message


def test_what_a_webhook_denied_was_not_deployed(broken):
    _, services = broken
    assert "webhook" in services["denied"]["error"]
    assert services["denied"]["action"] == ""


def test_the_others_do_not_hide_the_one_that_works(broken):
    message, services = broken
    assert message.startswith("5 of 6 services failed.")
    assert services["works"]["state"] == "ready"
    assert not services["works"]["error"]


@pytest.mark.matrix
def test_a_wrong_key_ends_the_run_at_once_and_a_right_one_mends_it(play, new_namespace, objects):
    namespace = new_namespace("kserve-key")
    task = kserve(namespace, name="llama", image_pull_policy="Always")
    failed = play(secret(namespace, "expired"), task, fails=None)
    assert failed.result["failed"]
    said = [
        datetime.fromisoformat(event["firstTimestamp"].replace("Z", "+00:00")).timestamp()  # 3.10 knows no Z
        for event in objects("events", namespace).values()
        if event["message"].startswith("Failed to pull image")
    ]
    assert failed.ended - min(said) <= 5
    assert one(failed.result)["findings"][0]["variant"] == "key"
    for part in ("the registry refuses the key", "what to do: renew it", "401"):
        assert part in failed.result["msg"]

    mended = play(secret(namespace), task).result
    assert one(mended)["state"] == "ready"
    assert one(mended)["action"] == "restarted"
    assert mended["changed"]


# -- changes of what runs


def test_an_old_pod_that_answers_does_not_make_a_new_tag_ready(play, space, run):
    def task(tag):
        return kserve(space, name="surge", image=f"{IMAGE}:{tag}", gpus=1, update_strategy="surge")

    good = play(task("1.0.0")).result
    bad = play(task("9.9.9"), fails=True).result
    assert one(bad)["findings"][0]["variant"] == "name"
    assert f"{IMAGE}:9.9.9" in bad["msg"]
    assert '"choices"' in run("bash", "-c", one(good)["curl"]).stdout
    back, again = play(task("1.0.0"), task("1.0.0")).results
    assert one(back)["state"] == "ready"
    assert back["changed"]
    assert not again["changed"]


def test_an_upgrade_ends_with_the_new_release_alone(play, space, objects):
    old, new = (kserve(space, name="upgrade", image=f"{IMAGE}:{tag}") for tag in ("1.0.0", "1.0.3"))
    upgraded = play(old, new, new)
    assert [result["changed"] for result in upgraded.results] == [True, True, False]
    serving = [
        pod["spec"]["containers"][0]["image"]
        for name, pod in objects("pods", space).items()
        if name.startswith("upgrade-predictor") and "deletionTimestamp" not in pod["metadata"]
    ]
    assert serving == [f"{IMAGE}:1.0.3"]


def test_sizes_that_are_left_out_are_no_change(play, space):
    defaults = {"namespace": space, "name": "defaults", "image": f"{IMAGE}:1.0.0", "wait": False}
    nothing = {"requests": {"cpu": None}, "limits": {"cpu": None}}
    without = {"name": "without", "pod_patch": {"containers": [{"name": "kserve-container", "resources": nothing}]}}
    tasks = [{"gpuops.nim.nim_kserve": defaults}, kserve(space, **without, wait=False)]
    assert [result["changed"] for result in play(*tasks, *tasks).results] == [True, True, False, False]


# -- what the wait lives through


def test_an_outage_of_ngc_is_waited_for(play, space, rehearsal):
    rehearsal("fault", "registry", "--status", "503", "--count", "1")
    outage = play(kserve(space, name="outage", image_pull_policy="Always"))
    assert one(outage.result)["state"] == "ready"
    assert "the registry is busy or has trouble of its own" in outage.stderr


# -- whose it is, and the end


def test_what_others_made_is_left_alone(play, space, apply, objects):
    metadata = {"name": "theirs", "namespace": space, "annotations": {"serving.kserve.io/stop": "true"}}
    container = {"name": "kserve-container", "image": f"{IMAGE}:1.0.0"}
    spec = {"predictor": {"containers": [container]}}
    apply({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata, "spec": spec})
    before = objects("inferenceservice", space)["theirs"]["spec"]
    tasks = kserve(space, name="theirs"), kserve(space, name="theirs", state="absent")
    for refused in play(*tasks, fails=True).results:
        for part in ("theirs exists and isn't ours", "kubectl", "adopt: true"):
            assert part in refused["msg"]
    assert objects("inferenceservice", space)["theirs"]["spec"] == before


def test_absent_waits_for_the_last_pod_and_keeps_the_models_unless_told(play, space, objects):
    def pods():
        return [name for name in objects("pods", space) if name.startswith("gone-predictor")]

    service = {"name": "gone", "cache": {"claim": "gone-models", "size": "1Gi"}}
    absent = kserve(space, name="gone", state="absent")
    assert one(play(kserve(space, **service)).result)["state"] == "ready"
    assert one(play(absent, check=True).result)["action"] == "deleted"
    assert pods()
    assert one(play(absent).result)["action"] == "deleted"
    assert not pods()
    assert "gone-models" in objects("pvc", space)
    again, purged = play(absent, kserve(space, name="gone", state="absent", keep_cache=False)).results
    assert not again["changed"]
    assert purged["changed"]
    claim = objects("pvc", space).get("gone-models")
    assert claim is None or "deletionTimestamp" in claim["metadata"]
