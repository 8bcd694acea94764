# SPDX-License-Identifier: GPL-3.0-or-later
"""nim_kserve on the controller of KServe 0.16, and what becomes of its services under 0.20. In this order."""

from __future__ import annotations

import json
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rehearsal.layout import url
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct"
API = "serving.kserve.io/v1beta1"
SCALER = "serving.kserve.io/autoscalerClass"
MODE = "serving.kserve.io/deploymentMode"


def kserve(namespace: str, name: str, tag: str = "1.0.0", **options):
    small = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}
    ingress = url("ingress").removeprefix("http://")
    wanted = {"namespace": namespace, "name": name, "image": f"{IMAGE}:{tag}", "ingress_address": ingress}
    return {"gpuops.nim.nim_kserve": {**small, **wanted, **options}}


def one(result):
    (service,) = result["services"]
    return service


@pytest.fixture(scope="module")
def change_over(run):
    """`change_over("0.16.0")`; in the end the cluster is back on the release that `up` starts."""

    def change_over(*release: str) -> None:
        run(sys.executable, "-m", "rehearsal", "up", *(f"--kserve={name}" for name in release))

    yield change_over
    change_over()


@pytest.fixture(scope="module")
def space(play, new_namespace):
    namespace = new_namespace("versions")
    play({"gpuops.nim.nim_secret": {"namespace": namespace, "ngc_api_key": KEYS["valid"]}})
    return namespace


@pytest.fixture(scope="module")
def old(change_over, play, space):
    """The namespace, on 0.16, with a service `kept` and the result of deploying it."""
    change_over("0.16.0")
    return space, play(kserve(space, "kept")).result


def modes(objects, namespace, name) -> tuple[str, str]:
    """What the service's annotation says, and what its status."""
    isvc = objects("inferenceservice", namespace)[name]
    return isvc["metadata"]["annotations"][MODE], isvc["status"]["deploymentMode"]


def test_it_comes_up_in_the_word_of_0_16(old, objects):
    namespace, result = old
    assert one(result)["state"] == "ready"
    assert modes(objects, namespace, "kept") == ("Standard", "Standard")


def test_again_it_changes_and_writes_nothing(old, play, audit):
    with audit(old[0]) as seen:
        again = play(kserve(old[0], "kept")).result
    assert not again["changed"]
    assert one(again)["state"] == "ready"
    assert not seen.writes


def test_an_upgrade_is_ready_with_the_new_pod_alone_though_0_16_says_unknown_on_the_way(old, play, objects, until):
    """From 0.16 to 0.19 PredictorReady is Unknown in a rollout."""
    namespace, _ = old

    def predictor() -> str:
        conditions = objects("inferenceservice", namespace)["upgrade"]["status"]["conditions"]
        return next(condition["status"] for condition in conditions if condition["type"] == "PredictorReady")

    def task(tag):
        slow = {"NIM_STANDIN_LOAD_SECONDS": "3"}
        return kserve(namespace, "upgrade", tag, update_strategy="surge", env=slow)

    play(task("1.0.0"))
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(play, task("1.0.3"))
        until(lambda: predictor() == "Unknown", "KServe 0.16's word for a rollout")
        result = playing.result().result
    assert result["changed"]
    assert one(result)["state"] == "ready"
    assert predictor() == "True"
    serving = [
        pod["spec"]["containers"][0]["image"]
        for name, pod in objects("pods", namespace).items()
        if name.startswith("upgrade-predictor") and "deletionTimestamp" not in pod["metadata"]
    ]
    assert serving == [f"{IMAGE}:1.0.3"]


def test_an_old_pod_that_answers_does_not_make_a_new_tag_ready(old, play, run):
    namespace, _ = old
    good, bad = (kserve(namespace, "surge", tag, gpus=1, update_strategy="surge") for tag in ("1.0.0", "9.9.9"))
    curl = one(play(good).result)["curl"]
    failed = play(bad, fails=True).result
    assert one(failed)["findings"][0]["variant"] == "name"
    assert f"{IMAGE}:9.9.9" in failed["msg"]
    assert '"choices"' in run("bash", "-c", curl).stdout
    back, gone = play(good, kserve(namespace, "surge", state="absent")).results
    assert one(back)["state"] == "ready"
    assert one(gone)["action"] == "deleted"


def test_absent_takes_the_pods_along(old, objects):
    assert not [name for name in objects("pods", old[0]) if name.startswith("surge-")]


def test_the_old_word_is_refused_and_the_right_one_told(old, play):
    refused = play(kserve(old[0], "word", deployment_mode="RawDeployment"), fails=True).result
    assert "set deployment_mode: Standard" in refused["msg"]
    assert not refused["changed"]


@pytest.fixture(scope="module")
def foreign(old, apply, kubectl):
    """`foreign("name")`: a service that somebody made with the word RawDeployment, which 0.16 takes only once."""
    namespace, _ = old

    def foreign(name: str) -> str:
        metadata = {"name": name, "namespace": namespace, "annotations": {MODE: "RawDeployment", SCALER: "none"}}
        limits = {"cpu": "50m", "memory": "128Mi"}
        container = {"name": "kserve-container", "image": f"{IMAGE}:1.0.0", "ports": [{"containerPort": 8000}]}
        container["resources"] = {"requests": limits, "limits": limits}
        container["env"] = [{"name": "NGC_API_KEY", "value": KEYS["valid"]}]
        spec = {"imagePullSecrets": [{"name": "ngc-secret"}], "containers": [container]}
        apply({"apiVersion": API, "kind": "InferenceService", "metadata": metadata, "spec": {"predictor": spec}})
        kubectl("wait", "--for=condition=Ready", f"inferenceservice/{name}", "-n", namespace, "--timeout=60s")
        return name

    return foreign


def test_a_service_with_the_old_word_goes_over_to_the_new_one(old, foreign, play, objects):
    namespace, name = old[0], foreign("adopted")
    assert modes(objects, namespace, name) == ("RawDeployment", "Standard")
    task = kserve(namespace, name, "1.0.3", adopt=True)
    adopted, again = play(task, task).results
    assert one(adopted)["state"] == "ready"
    assert modes(objects, namespace, name) == ("Standard", "Standard")
    assert not again["changed"]
    # 0.16 writes the word into the pods, too
    sets = [each for each in objects("replicasets", namespace) if each.startswith(f"{name}-predictor-")]
    assert len(sets) == 2, "a model is loaded once for the new specification, and not for the word alone"


def test_a_service_with_the_old_word_can_be_removed(old, foreign, play, objects):
    """0.16 refuses the updates that end the deletion too, for ever."""
    absent = kserve(old[0], foreign("removed"), state="absent", adopt=True)
    assert one(play(absent).result)["action"] == "deleted"
    assert "removed" not in objects("inferenceservice", old[0])


@pytest.fixture(scope="module")
def left_over(old, foreign, kubectl):
    """`left_over("name")`: such a service as 0.15 leaves it, with the old word in its status, too."""

    def left_over(name: str) -> str:
        status = json.dumps({"status": {"deploymentMode": "RawDeployment"}})
        where = ("inferenceservice", "-n", old[0], foreign(name), "--subresource=status", "--type=merge")
        kubectl("patch", *where, "-p", status)
        return name

    return left_over


def test_a_service_from_before_0_16_can_be_removed(old, left_over, play, objects):
    absent = kserve(old[0], left_over("removed-left-over"), state="absent", adopt=True)
    assert one(play(absent).result)["action"] == "deleted"
    assert "removed-left-over" not in objects("inferenceservice", old[0])


def test_a_service_that_somebody_deleted_in_vain_is_gone_after_absent(old, foreign, play, kubectl, objects):
    namespace, name = old[0], foreign("stuck")
    kubectl("delete", "inferenceservice", "-n", namespace, name, "--wait=false")
    play(kserve(namespace, name, state="absent", adopt=True))
    assert name not in objects("inferenceservice", namespace)


def test_a_service_from_before_0_16_is_told_how_to_live_on(old, left_over, play, kubectl):
    """0.16 takes it for a Knative service."""
    namespace, name = old[0], left_over("left-over")
    task = kserve(namespace, name, adopt=True)
    told = re.search(r"`kubectl (.+)`", play(task, fails=True).result["msg"])
    kubectl(*shlex.split(told[1]))
    assert one(play(task).result)["state"] == "ready"


@pytest.mark.parametrize(("name", "options"), [("kept", {}), ("adopted", {"tag": "1.0.3", "adopt": True})])
def test_under_0_20_it_lives_on_unchanged(old, change_over, play, audit, name, options):
    change_over("0.20.0")
    with audit(old[0]) as seen:
        again = play(kserve(old[0], name, **options)).result
    assert not again["changed"]
    assert one(again)["state"] == "ready"
    assert not seen.writes
