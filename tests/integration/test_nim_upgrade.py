# SPDX-License-Identifier: GPL-3.0-or-later
"""nim_upgrade on a real KServe: up, back, cut off anywhere, and hands off what is not ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import yaml

from rehearsal.layout import url
from rehearsal.standins.ngc import KEYS
from tests.conftest import BIN
from tests.integration.conftest import LAYOUT

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct"
OLD, NEW = f"{IMAGE}:1.0.0", f"{IMAGE}:1.0.3"
NO_PROFILE = "vllm-fp16-tp16"  # one that the image doesn't have: NIM ends at once
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}


def kserve(namespace, name, image=OLD, **options):
    return {"gpuops.nim.nim_kserve": {"namespace": namespace, "name": name, "image": image, **SMALL, **options}}


def upgrade(namespace, name=None, **options):
    chat = {"address": url("ingress")}
    return {
        "gpuops.nim.nim_upgrade": {
            "namespace": namespace,
            "wait_timeout": 120,
            "chat": chat,
            **({"name": name} if name else {}),
            **options,
        }
    }


def one(result):
    (service,) = result["services"]
    return service


@pytest.fixture(scope="module")
def space(play, new_namespace):
    namespace = new_namespace("upgrade")
    play({"gpuops.nim.nim_secret": {"namespace": namespace}})
    return namespace


@pytest.fixture
def deployed(play, space):
    """`deployed("name", ...)`: a service of the old release that is ready."""

    def deployed(name, **options):
        play(kserve(space, name, **options))
        return name

    return deployed


@pytest.fixture
def image(objects, space):
    """`image("name")`: of the InferenceService, and of the pods that serve."""

    def image(name):
        wanted = objects("inferenceservice", space)[name]["spec"]["predictor"]["containers"][0]["image"]
        serving = {
            pod["spec"]["containers"][0]["image"]
            for pod_name, pod in objects("pods", space).items()
            if pod_name.startswith(f"{name}-predictor") and "deletionTimestamp" not in pod["metadata"]
        }
        return wanted, serving

    return image


@pytest.fixture
def under_way(objects, space):
    """`under_way("name")`: to which releases the cluster remembers the service to be on its way, for a run to go on."""

    def under_way(name):
        found = [each["metadata"] for each in objects("controllerrevision", space).values()]
        mine = [meta for meta in found if meta["labels"]["gpuops.nim/service"] == name]
        return [meta.get("annotations", {}).get("gpuops.nim/upgrading-to") for meta in mine]

    return under_way


class Traffic:
    """Asks a service all the time, as users do, and counts who got no answer."""

    def __init__(self, namespace, name):
        self.host = f"{name}-{namespace}.example.com"
        self.good, self.failed = 0, []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._ended.set()
        self._thread.join()

    def _run(self):
        body = {"model": "meta/llama3-8b-instruct", "messages": [{"role": "user", "content": "Hi"}]}
        while not self._ended.is_set():
            try:
                path = f"{url('ingress')}/v1/chat/completions"
                answer = requests.post(path, json=body, headers={"Host": self.host}, timeout=10)
                if answer.status_code == 200:
                    self.good += 1
                else:
                    self.failed.append(f"{answer.status_code} {answer.text[:80]}")
            except requests.RequestException as error:
                self.failed.append(repr(error))
            time.sleep(0.05)


# -- up


def test_check_then_up_under_traffic_then_nothing(play, audit, space, deployed, image, objects, under_way):
    name = deployed("up")
    task = upgrade(space, name, tag="1.0.3")
    with audit(space) as seen:
        checked = play(task, check=True, diff=True).result
    assert not seen.writes
    assert one(checked)["action"] == "upgraded"
    assert f"image: {NEW}" in yaml.safe_dump(checked["diff"][-1]["after"])
    assert image(name) == (OLD, {OLD})

    with Traffic(space, name) as traffic:
        played = play(task)
    result = one(played.result)
    assert (result["action"], result["state"], result["update_strategy"]) == ("upgraded", "ready", "surge")
    assert result["before"] == {"image": OLD, "model_profile": ""}
    assert result["after"] == {"image": NEW, "model_profile": ""}
    assert "release 1.0.3" in result["answer"]
    assert result["seconds"].keys() == {"pre_pull", "roll", "chat", "all"}
    assert traffic.good
    assert traffic.failed == []
    assert image(name) == (NEW, {NEW})
    assert result["revision"] in objects("controllerrevision", space)
    assert under_way(name) == [None]
    for said in ("fetches", "has the image", "→", "asking"):
        assert said in played.stderr
    assert not [pod for pod in objects("pods", space) if "pre-pull" in pod]

    with audit(space) as seen:
        again = play(task, kserve(space, name, NEW))
    assert [each["changed"] for each in again.results] == [False, False]
    assert one(again.results[0])["action"] == "unchanged"
    assert not seen.writes


def test_the_way_is_the_same_in_all_ways_of_running(in_all_ways, space, deployed):
    name = deployed("ways")
    result = in_all_ways(upgrade(space, name, image=OLD, model_profile=""))
    assert one(result)["action"] == "unchanged"


def test_a_profile_is_set_and_left_to_nim_again(play, space, deployed, objects):
    name = deployed("profile")
    there, back = (play(upgrade(space, name, model_profile=profile)).result for profile in ("vllm-fp16-tp1", ""))
    assert one(there)["after"] == {"image": OLD, "model_profile": "vllm-fp16-tp1"}
    assert "pre_pull" not in one(there)["seconds"]  # it has the image
    assert one(back)["before"]["model_profile"] == "vllm-fp16-tp1"
    assert not play(kserve(space, name)).result["changed"]


def test_several_are_upgraded_one_after_the_other_and_few_revisions_are_kept(play, space, deployed, image, objects):
    first, second = deployed("first"), deployed("second")
    entries = [{"name": first}, {"name": second}]
    for tag in ("1.0.3", "1.0.0", "1.0.3"):
        result = play(upgrade(space, services=entries, tag=tag, keep=2)).result
        assert [service["action"] for service in result["services"]] == ["upgraded", "upgraded"]
    assert image(first) == image(second) == (NEW, {NEW})
    kept = [each for each in objects("controllerrevision", space) if each.startswith("first-")]
    assert len(kept) == 2
    play(kserve(space, first, state="absent"))


def test_prometheus_finds_the_metrics_where_the_new_line_has_them(play, space, deployed, objects, monitoring_crds):
    def path():
        return objects("servicemonitors", space)["metrics-svcmonitor"]["spec"]["endpoints"][0]["path"]

    llama = "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.3.0"
    name = deployed("metrics", enable_prometheus=True, env={"NIM_SERVED_MODEL_NAME": "llama"})
    assert path() == "/metrics"
    result = play(upgrade(space, name, image=llama)).result
    assert one(result)["action"] == "upgraded"
    assert path() == "/v1/metrics"
    bad = play(upgrade(space, name, image=OLD, model_profile=NO_PROFILE), fails=True).result
    assert one(bad)["action"] == "rolled_back"
    assert path() == "/v1/metrics"


# -- what can't be had, or doesn't come up


def test_a_tag_that_is_not_there_costs_nothing(play, space, deployed, image, objects, audit):
    name = deployed("no-tag")
    before = objects("inferenceservice", space)[name]["metadata"]["resourceVersion"]
    with Traffic(space, name) as traffic, audit(space) as seen:
        failed = play(upgrade(space, name, tag="9.9.9"), fails=True).result
    assert not failed["changed"]
    assert one(failed)["action"] == "untouched"
    assert one(failed)["findings"][0]["variant"] == "name"
    for part in ("was not touched", "no such image or tag", f"{IMAGE}:9.9.9"):
        assert part in failed["msg"]
    assert traffic.good
    assert traffic.failed == []
    assert objects("inferenceservice", space)[name]["metadata"]["resourceVersion"] == before
    assert not [write for write in seen.writes if "/pods" not in write]
    assert not [pod for pod in objects("pods", space) if "pre-pull" in pod]
    assert not [each for each in objects("controllerrevision", space) if each.startswith(f"{name}-")]


def test_one_that_can_not_be_had_keeps_all_untouched(play, space, deployed, image):
    good, bad = deployed("with"), deployed("without")
    entries = [{"name": good, "tag": "1.0.3"}, {"name": bad, "tag": "9.9.9"}]
    failed = play(upgrade(space, services=entries), fails=True).result
    assert [service["action"] for service in failed["services"]] == ["untouched", "untouched"]
    assert image(good) == (OLD, {OLD})


def test_without_pre_pull_it_is_taken_back_all_the_same(play, space, deployed, image):
    name = deployed("fetched-late")
    with Traffic(space, name) as traffic:
        failed = play(upgrade(space, name, tag="9.9.9", pre_pull="never"), fails=True).result
    assert one(failed)["action"] == "rolled_back"
    assert "no such image or tag" in failed["msg"]
    assert image(name) == (OLD, {OLD})
    assert traffic.failed == []


def test_a_release_that_ends_at_once_is_taken_back_with_its_cause(play, space, deployed, image, under_way):
    name = deployed("crash")
    with Traffic(space, name) as traffic:
        failed = play(upgrade(space, name, tag="1.0.3", model_profile=NO_PROFILE), fails=True).result
    result = one(failed)
    assert failed["changed"]
    assert (result["action"], result["state"]) == ("rolled_back", "ready")
    assert result["findings"][0]["variant"] == "profile"
    assert "release 1.0.0" in result["answer"]
    for part in ("no profile of this model fits", "is back on", OLD, "answers again"):
        assert part in failed["msg"]
    assert traffic.failed == []
    assert image(name) == (OLD, {OLD})
    assert under_way(name) == [None]
    # and what was wrong is no hindrance to the next one
    assert one(play(upgrade(space, name, tag="1.0.3")).result)["action"] == "upgraded"


def test_in_place_too_the_old_one_answers_again(play, space, deployed, image):
    name = deployed("in-place")
    failed = play(upgrade(space, name, model_profile=NO_PROFILE, update_strategy="in_place"), fails=True).result
    assert one(failed)["action"] == "rolled_back"
    assert "answers again" in failed["msg"]
    assert image(name) == (OLD, {OLD})


def test_who_wants_no_way_back_is_told_it(play, space, deployed, image):
    name = deployed("forward")
    failed = play(upgrade(space, name, model_profile=NO_PROFILE, rollback=False), fails=True).result
    assert one(failed)["action"] == "failed"
    assert "To go back" in failed["msg"]
    mended = play(upgrade(space, name, model_profile="")).result
    assert one(mended)["action"] == "upgraded"


def test_what_does_not_answer_is_taken_back(play, space, deployed, image):
    name = deployed("silent")
    chat = {"address": url("ingress"), "model": "meta/other"}
    failed = play(upgrade(space, name, tag="1.0.3", chat=chat), fails=True).result
    assert one(failed)["findings"] == []
    assert "does not serve the model 'meta/other'" in failed["msg"]
    assert image(name) == (OLD, {OLD})


def test_an_ingress_that_is_away_says_nothing_of_the_release(play, space, deployed, image, under_way):
    name = deployed("no-way")
    task = upgrade(space, name, tag="1.0.3", chat={"address": "127.0.0.1:9"})
    failed = play(task, fails=True).result
    assert one(failed)["action"] == "failed"
    assert "the model answers the API server" in failed["msg"]
    assert image(name) == (NEW, {NEW})
    assert under_way(name) == [NEW]
    done = play(upgrade(space, name, tag="1.0.3")).result
    assert one(done)["action"] == "upgraded"
    assert one(done)["before"]["image"] == OLD
    assert under_way(name) == [None]


# -- outages


def test_a_registry_that_is_away_changes_nothing(play, space, deployed, image, rehearsal):
    name = deployed("away", image_pull_policy="Always")
    rehearsal("fault", "registry", "--status", "503")
    failed = play(upgrade(space, name, tag="1.0.3", wait_timeout=8), fails=True).result
    assert not failed["changed"]
    assert "not fetched after 8 s" in failed["msg"]
    assert image(name) == (OLD, {OLD})


def test_a_registry_that_goes_away_in_between_is_no_reason_to_go_back(play, space, deployed, image, rehearsal):
    name = deployed("leaves", image_pull_policy="Always")
    rehearsal("fault", "registry", "--status", "503")
    task = upgrade(space, name, tag="1.0.3", pre_pull="never", wait_timeout=8)
    failed = play(task, fails=True).result
    assert one(failed)["action"] == "failed"
    assert "says nothing of the new release" in failed["msg"]
    assert image(name)[0] == NEW
    rehearsal("fault", "--clear")
    assert one(play(upgrade(space, name, tag="1.0.3", pre_pull="never")).result)["action"] == "upgraded"


def test_an_api_server_that_is_away_is_no_reason_to_go_back(
    play, space, deployed, image, rehearsal, objects, until, under_way
):
    name = deployed("api-away", env={"NIM_STANDIN_LOAD_SECONDS": "5"})
    task = upgrade(space, name, model_profile=NO_PROFILE, wait_timeout=10)
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(play, task, fails=True)
        until(lambda: under_way(name) == [f"{OLD}, profile {NO_PROFILE}"], "the upgrade to begin")
        rehearsal("freeze", "apiserver")
        failed = playing.result().result
    rehearsal("thaw", "apiserver")
    assert one(failed)["action"] in ("failed", "untouched")
    assert "the same run again goes on" in failed["msg"]
    assert under_way(name) == [f"{OLD}, profile {NO_PROFILE}"]
    assert one(play(task, fails=True).result)["action"] == "rolled_back"
    assert under_way(name) == [None]


# -- cut off


@pytest.fixture
def cut_off(tmp_path):
    """`cut_off(task, "text")`: ends the run, and all that it started, the moment it says the text."""

    def cut_off(task, said):
        playbook = tmp_path / "cut.yml"
        variables = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        here = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables}
        playbook.write_text(yaml.safe_dump([{**here, "tasks": [task]}]))
        ours = {"K8S_AUTH_KUBECONFIG": str(LAYOUT.kubeconfig), "NGC_API_KEY": KEYS["valid"], "ANSIBLE_NOCOLOR": "1"}
        process = subprocess.Popen(
            [str(BIN / "ansible-playbook"), "-i", "localhost,", str(playbook)],
            env={**os.environ, **ours},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if said in line:
                    break
            else:
                pytest.fail(f"{said!r} was never said:\n{''.join(lines)}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return cut_off


@pytest.mark.parametrize("said", ["fetches", "→", "loading", "asking"])
def test_a_run_that_was_cut_off_is_finished_by_the_same_run(
    cut_off, play, space, deployed, image, under_way, objects, audit, said
):
    slow = {"NIM_STANDIN_LOAD_SECONDS": "3"}
    name = deployed(f"cut-{ {'→': 'roll'}.get(said, said) }", env=slow)
    task = upgrade(space, name, tag="1.0.3")
    cut_off(task, said)
    result = one(play(task).result)
    assert (result["action"], result["state"]) == ("upgraded", "ready")
    assert (result["before"]["image"], result["after"]["image"]) == (OLD, NEW)
    assert "release 1.0.3" in result["answer"]
    assert image(name) == (NEW, {NEW})
    assert under_way(name) == [None]
    assert not [pod for pod in objects("pods", space) if "pre-pull" in pod]
    with audit(space) as seen:
        assert not play(task).result["changed"]
    assert not seen.writes


@pytest.mark.parametrize("said", ["loading", "back to"])
def test_a_run_that_was_cut_off_on_a_bad_release_still_goes_back(
    cut_off, play, space, deployed, image, said, under_way
):
    name = deployed(f"cut-bad-{said.split()[0]}")
    task = upgrade(space, name, model_profile=NO_PROFILE)
    cut_off(task, said)
    failed = play(task, fails=True).result
    assert one(failed)["action"] == "rolled_back"
    assert "no profile of this model fits" in failed["msg"]
    assert image(name) == (OLD, {OLD})
    assert under_way(name) == [None]
    assert not play(kserve(space, name)).result["changed"]


# -- whose it is


def test_what_others_made_is_refused_and_taken_over_when_asked(play, space, apply, objects, kubectl, image):
    metadata = {"name": "theirs", "namespace": space, "annotations": {"serving.kserve.io/deploymentMode": "Standard"}}
    limits = {"cpu": "50m", "memory": "128Mi"}
    container = {"name": "kserve-container", "image": OLD, "ports": [{"containerPort": 8000}]}
    container["resources"] = {"requests": limits, "limits": limits}
    container["env"] = [{"name": "NGC_API_KEY", "value": KEYS["valid"]}]  # which `play` must not find anywhere
    predictor = {"imagePullSecrets": [{"name": "ngc-secret"}], "containers": [container]}
    api = "serving.kserve.io/v1beta1"
    apply({"apiVersion": api, "kind": "InferenceService", "metadata": metadata, "spec": {"predictor": predictor}})
    kubectl("wait", "--for=condition=Ready", "inferenceservice/theirs", "-n", space, "--timeout=60s")
    refused = play(upgrade(space, "theirs", tag="1.0.3"), fails=True).result
    assert not refused["changed"]
    for part in ("isn't ours", "kubectl", "adopt: true"):
        assert part in refused["msg"]
    play(upgrade(space, "theirs", tag="1.0.3", adopt=True), check=True, diff=True)
    taken, again = play(*[upgrade(space, "theirs", tag="1.0.3", adopt=True)] * 2, diff=True).results
    assert "ControllerRevision" in json.dumps(taken["diff"])
    assert one(taken)["action"] == "upgraded"
    assert image("theirs") == (NEW, {NEW})
    assert not again["changed"]
    kept = objects("inferenceservice", space)["theirs"]["spec"]["predictor"]["containers"][0]
    assert kept["env"] == container["env"]


BAD = [
    ({}, "image: is missing; give image, tag or model_profile"),
    ({"image": NEW, "tag": "1.0.3"}, "tag: stands beside image"),
    ({"tag": "1.0.3@sha"}, "tag: '1.0.3@sha' is not a tag"),
    ({"image": "https://nvcr.io/nim/a:1"}, "image: an image has no https://"),
    ({"model_profile": "two words"}, "model_profile: 'two words' is not a profile"),
    ({"tag": "1", "name": "A"}, "name: 'A' is not a name"),
    ({"tag": "1", "keep": 0}, "keep: is 0, must be 1 or more"),
    ({"tag": "1", "wait_timeout": -1}, "wait_timeout: is -1"),
    ({"tag": "1", "chat": {"max_tokens": 0}}, "chat.max_tokens: is 0, must be 1 or more"),
    ({"tag": "1", "chat": {"tls_ca": "/no/such/file"}}, "chat.tls_ca: there is no file"),
    ({"tag": "1", "chat": {"api": "song"}}, "auto, chat, embeddings, ranking, none"),
    ({"name": None, "services": [{"name": "a", "tags": "1"}]}, "services[0].tags: there is no such option"),
    ({"name": None, "services": [{"name": "a", "tag": "1", "keep": 2}]}, "services[0].keep: belongs to the task"),
    ({"tag": "1", "services": [{"name": "a"}]}, "mutually exclusive"),
]


def test_bad_input_is_told_before_the_cluster_is_asked(play, space, audit):
    given = [{"namespace": space, "name": "a", **options} for options, _ in BAD]
    tasks = [{"gpuops.nim.nim_upgrade": {k: v for k, v in each.items() if v is not None}} for each in given]
    with audit(space) as seen:
        results = play(*tasks, fails=True).results
    for (_, words), result in zip(BAD, results, strict=True):
        assert words in result["msg"]
    assert not seen.requests


def test_a_service_that_is_not_there_or_stopped_is_told_before_anything(play, space, deployed, image):
    name, stopped = deployed("there"), deployed("stopped")
    play(kserve(space, stopped, state="stopped"))
    entries = [{"name": name}, {"name": "nobody"}, {"name": stopped}]
    failed = play(upgrade(space, services=entries, tag="1.0.3"), fails=True).result
    assert f"[{space}/nobody] name: there is no such service" in failed["msg"]
    assert f"[{space}/{stopped}] name: the service is stopped" in failed["msg"]
    assert image(name) == (OLD, {OLD})


def test_the_revisions_go_with_their_service(play, space, deployed, objects, until):
    name = deployed("goes")
    play(upgrade(space, name, tag="1.0.3"))
    assert [each for each in objects("controllerrevision", space) if each.startswith("goes-")]
    play(kserve(space, name, state="absent"))
    until(
        lambda: not [each for each in objects("controllerrevision", space) if each.startswith("goes-")],
        "the garbage collector",
    )
