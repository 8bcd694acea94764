# SPDX-License-Identifier: GPL-3.0-or-later
"""nim_chat through a real ingress and a real API server's proxy."""

from __future__ import annotations

import pytest

from rehearsal.layout import url

pytestmark = pytest.mark.rehearsal

LLAMA, EMBED, RERANK = "meta/llama3-8b-instruct", "nvidia/nv-embedqa-e5-v5", "nvidia/nv-rerankqa-mistral-4b-v3"
VOLATILE = ("seconds", "seconds_to_first_token")


@pytest.fixture(scope="module")
def deploy():
    """A task that brings services up."""
    small = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}

    def deploy(namespace, *services, **options):
        return {"gpuops.nim.nim_kserve": {"namespace": namespace, "services": list(services), **small, **options}}

    return deploy


@pytest.fixture(scope="module")
def space(play, new_namespace, deploy):
    """A namespace with a model of each kind: llama, embed and rerank, and halted for a test to break."""
    namespace = new_namespace("chat")
    models = {"llama": LLAMA, "embed": EMBED, "rerank": RERANK, "halted": LLAMA}
    services = [{"name": name, "image": f"nvcr.io/nim/{model}:1.0.0"} for name, model in models.items()]
    play({"gpuops.nim.nim_secret": {"namespace": namespace}}, deploy(namespace, *services))
    return namespace


@pytest.fixture
def chat(space):
    """A task that asks llama, through the ingress unless told otherwise."""

    def chat(**options):
        options = {"name": "llama", "namespace": space, "address": url("ingress"), **options}
        return {"gpuops.nim.nim_chat": options}

    return chat


def test_check_then_ask_then_ask_again(play, chat, audit, space):
    checked = play(chat(), check=True).result
    assert "check mode" in checked["skipped_reason"]
    assert "answer" not in checked
    with audit(space) as seen:
        asked, again = play(chat(), chat()).results
    assert not asked["changed"]
    assert asked["answer"] == again["answer"]
    assert seen.requests
    assert not seen.writes
    diffed = play(chat(), check=True, diff=True).result
    assert not diffed["changed"]
    assert "diff" not in diffed


@pytest.mark.parametrize("via", ["ingress", "apiserver"])
def test_the_model_answers_the_question_with_and_without_a_stream(play, chat, space, via):
    question = {"prompt": f"Who comes through {via}?", "via": via}
    streamed, whole = play(chat(**question), chat(stream=False, **question)).results
    for result in (streamed, whole):
        assert LLAMA in result["answer"]
        assert question["prompt"] in result["answer"]
        assert (result["model"], result["served_models"], result["via"]) == (LLAMA, [LLAMA], via)
        assert result["finish_reason"] == "stop"
        assert result["tokens"]["completion"] > 1
    assert streamed["answer"] == whole["answer"]
    assert 0 < streamed["seconds_to_first_token"] < streamed["seconds"]
    assert whole["seconds_to_first_token"] is None
    assert streamed["host"] == (f"llama-{space}.example.com" if via == "ingress" else None)


@pytest.mark.parametrize("via", ["ingress", "apiserver"])
def test_embeddings_and_ranking(play, chat, via):
    asked = {"via": via, "prompt": "What is bread made of?"}
    passages = ["Paris is the capital of France.", "Bread is made of flour."]
    embedded, ranked = play(
        chat(name="embed", api="embeddings", **asked),
        chat(name="rerank", api="ranking", passages=passages, **asked),
    ).results
    assert (embedded["model"], embedded["dimensions"]) == (EMBED, 1024)
    assert ranked["model"] == RERANK
    assert [one["index"] for one in ranked["rankings"]] == [1, 0]


def test_an_answer_that_was_cut_says_so(play, chat):
    assert play(chat(max_tokens=3)).result["finish_reason"] == "length"


def test_all_kinds_in_one_task(play, chat, space):
    services = [
        {"name": "llama"},
        {"name": "embed", "api": "embeddings", "via": "apiserver"},
        {"name": "rerank", "api": "ranking"},
    ]
    llama, embed, rerank = play(chat(name=None, services=services)).result["services"]
    assert (llama["name"], llama["namespace"], llama["error"]) == ("llama", space, "")
    assert LLAMA in llama["answer"]
    assert (embed["via"], embed["dimensions"]) == ("apiserver", 1024)
    assert len(rerank["rankings"]) == 2


def test_one_that_is_not_there_hides_no_other(play, chat, space):
    failed = play(chat(name=None, services=[{"name": "nobody"}, {"name": "llama"}]), fails=True).result
    assert failed["msg"].splitlines()[0] == "1 of 2 services did not answer."
    assert f"[{space}/nobody] There is no InferenceService nobody" in failed["msg"]
    assert LLAMA in failed["services"][1]["answer"]


@pytest.mark.parametrize("via", ["ingress", "apiserver"])
def test_refusals_tell_who_refused_and_what_would_be_right(play, chat, space, via):
    model, api = play(chat(via=via, model="meta/llama4"), chat(via=via, api="embeddings"), fails=True).results
    assert "does not serve the model 'meta/llama4'" in model["msg"]
    assert f"It serves: {LLAMA}." in model["msg"]
    assert "The model server behind" in api["msg"]
    assert "has no /v1/embeddings" in api["msg"]
    assert "set `api`" in api["msg"]


def test_the_way_there_is_told_from_the_model(play, chat, space):
    unknown, refused, nameless, nobody = play(
        chat(host_header="unknown.example.com"),
        chat(address="http://127.0.0.1:1"),
        chat(address="http://no-such-name.invalid"),
        chat(name="nobody"),
        fails=True,
    ).results
    assert "has no route for the host unknown.example.com (404" in unknown["msg"]
    assert "Nothing listens at http://127.0.0.1:1 (connection refused)" in refused["msg"]
    assert "can't be resolved" in nameless["msg"]
    assert f"There is no InferenceService nobody in namespace {space}" in nobody["msg"]


def test_a_service_without_a_pod(play, chat, space, deploy, kubectl, until):
    broken = "nvcr.io/nim/meta/llama3-8b-instruct:9.9.9"
    play(deploy(space, {"name": "halted", "image": broken, "update_strategy": "in_place"}, wait=False))
    pods = ("get", "pods", "-n", space, "-l", "serving.kserve.io/inferenceservice=halted", "-o", "yaml")
    until(lambda: "running:" not in kubectl(*pods), "the end of the pod that worked")
    tasks = [chat(name="halted", via=via) for via in ("ingress", "apiserver")]
    for refused in play(*tasks, fails=True).results:
        assert "no ready pod behind" in refused["msg"]


@pytest.mark.matrix
def test_every_way_of_running_gives_the_same(in_all_ways, chat):
    assert in_all_ways(chat(prompt="Same?"), volatile=VOLATILE)["answer"]
    assert in_all_ways(chat(model="meta/llama4"), fails=True)["msg"]
    both = chat(name=None, services=[{"name": "llama", "model": "meta/llama4"}, {"name": "nobody"}])
    assert in_all_ways(both, fails=True)["services"]
