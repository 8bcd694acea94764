# SPDX-License-Identifier: GPL-3.0-or-later
"""nim_secret on a real API server, with real pods."""

from __future__ import annotations

import base64
import json
import time

import pytest

from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"


def secret(*namespaces: str, **options):
    return {"gpuops.nim.nim_secret": {"namespaces": list(namespaces), **options}}


def actions(result):
    return [entry["action"] for entry in result["secrets"]]


def values(obj):
    return {name: base64.b64decode(value).decode() for name, value in obj["data"].items()}


@pytest.fixture(scope="module")
def done(play, new_namespace):
    """A namespace that has both Secrets."""
    namespace = new_namespace("secret")
    play(secret(namespace))
    return namespace


def test_check_then_do_then_nothing_in_two_namespaces(play, name_namespace, audit, kubectl, objects):
    one, two = name_namespace("secret-one"), name_namespace("secret-two")
    task = secret(one, two, create_namespace=True)

    checked = play(task, check=True).result
    assert checked["changed"]
    assert actions(checked) == ["created"] * 4
    assert any(one in warning for warning in checked["warnings"])
    assert not kubectl("get", "namespace", "--ignore-not-found", one, two)

    with audit(one) as seen:
        made = play(task)
    assert made.result["changed"]
    assert actions(made.result) == ["created"] * 4
    assert len(seen.writes) == 3  # the namespace and both Secrets
    assert f"Secret ngc-secret in {two}: created" in made.stderr
    for namespace in (one, two):
        found = objects("secrets", namespace)
        assert values(found["nvidia-nim-secrets"]) == {"NGC_API_KEY": KEYS["valid"]}
        auths = json.loads(values(found["ngc-secret"])[".dockerconfigjson"])["auths"]
        assert auths["nvcr.io"]["username"] == "$oauthtoken"
        assert auths["nvcr.io"]["password"] == KEYS["valid"]

    with audit(one) as seen:
        again = play(task).result
    assert not again["changed"]
    assert actions(again) == ["unchanged"] * 4
    assert seen.requests
    assert not seen.writes

    checked = play(task, check=True, diff=True).result
    assert not checked["changed"]
    assert "diff" not in checked


@pytest.mark.matrix
def test_every_way_of_running_gives_the_same(in_all_ways, done):
    assert actions(in_all_ways(secret(done))) == ["unchanged"] * 2
    changed = in_all_ways(secret(done, ngc_api_key=KEYS["second"]), check=True, diff=True)
    assert changed["diff"][0]["before"] != changed["diff"][0]["after"]
    assert "changeme" not in in_all_ways(secret(done, ngc_api_key="changeme"), fails=True)["msg"]


def test_white_space_around_the_key_is_no_change(play, done):
    spaced = play(secret(done, ngc_api_key=f" {KEYS['valid']}\r\n"), secret(done), env={"NGC_API_KEY": KEYS["valid"]})
    assert [result["changed"] for result in spaced.results] == [False, False]


def test_registries_have_their_own_credentials(play, done, objects):
    registries = [{"host": "nvcr.io"}, {"host": "mirror.example.com:5000", "username": "puller", "password": "a b\n"}]
    names = {"pull_secret": "mirrors", "runtime_secret": "runtime"}
    play(secret(done, registries=registries, **names))
    auths = json.loads(values(objects("secrets", done)["mirrors"])[".dockerconfigjson"])["auths"]
    assert {host: (auth["username"], auth["password"]) for host, auth in auths.items()} == {
        "nvcr.io": ("$oauthtoken", KEYS["valid"]),
        "mirror.example.com:5000": ("puller", "a b"),
    }


def pod(namespace):
    key = {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}}
    container = {"name": "nim", "image": IMAGE, "env": [{"name": "NGC_API_KEY", "valueFrom": key}]}
    spec = {
        "containers": [container],
        "imagePullSecrets": [{"name": "ngc-secret"}],
        "terminationGracePeriodSeconds": 0,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model", "namespace": namespace}, "spec": spec}


def test_pods_with_the_old_key_are_named_until_they_are_renewed(play, new_namespace, apply, kubectl):
    def start():
        time.sleep(1.1)  # Kubernetes' times have whole seconds
        apply(pod(namespace))
        kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/model")

    namespace = new_namespace("secret-rotation")
    first = play(secret(namespace)).result
    start()
    same = play(secret(namespace)).result
    assert same["pods_with_old_key"] == same["pods_unknown"] == []
    assert same["secrets"][1]["fingerprint"] == first["secrets"][1]["fingerprint"]

    time.sleep(1.1)
    rotated = play(secret(namespace, ngc_api_key=KEYS["second"])).result
    assert actions(rotated) == ["changed", "changed"]
    assert rotated["secrets"][1]["fingerprint"] != first["secrets"][1]["fingerprint"]
    assert rotated["pods_with_old_key"] == [f"{namespace}/model"]

    kubectl("delete", "pod", "-n", namespace, "model")
    start()
    assert play(secret(namespace, ngc_api_key=KEYS["second"])).result["pods_with_old_key"] == []


def test_what_others_made_is_left_alone_until_it_is_adopted(play, new_namespace, kubectl, objects):
    theirs, ours = new_namespace("secret-foreign"), new_namespace("secret-ours")
    kubectl("create", "secret", "generic", "nvidia-nim-secrets", "-n", theirs, "--from-literal=NGC_API_KEY=theirs")
    tasks = (secret(theirs, ours), secret(theirs, state="absent", pull_secret="none"))
    present, absent = play(*tasks, fails=True).results
    for refused in (present, absent):
        for part in ("nvidia-nim-secrets", theirs, "kubectl-create", "adopt: true"):
            assert part in refused["msg"]
    assert values(objects("secrets", theirs)["nvidia-nim-secrets"]) == {"NGC_API_KEY": "theirs"}
    assert set(objects("secrets", ours)) == {"ngc-secret", "nvidia-nim-secrets"}

    adopted, again = play(secret(theirs, adopt=True), secret(theirs)).results
    assert adopted["secrets"][1]["action"] == "changed"
    assert not again["changed"]
    assert values(objects("secrets", theirs)["nvidia-nim-secrets"]) == {"NGC_API_KEY": KEYS["valid"]}


def test_a_missing_namespace_is_named(play, name_namespace):
    missing = name_namespace("secret-missing")
    message = play(secret(missing), fails=True).result["msg"]
    assert f"There is no namespace {missing}" in message
    assert "create_namespace" in message


def test_a_namespace_that_exists_is_left_as_it_is(play, kubectl, new_namespace):
    namespace = new_namespace("secret-existing")

    def version():
        return kubectl("get", "namespace", namespace, "-o", "jsonpath={.metadata.resourceVersion}")

    before = version()
    play(secret(namespace, create_namespace=True))
    assert version() == before


def test_absent_takes_both_away_once(play, new_namespace, objects):
    namespace = new_namespace("secret-absent")
    absent = secret(namespace, state="absent")
    play(secret(namespace))
    checked = play(absent, check=True).result
    assert checked["changed"]
    assert len(objects("secrets", namespace)) == 2
    gone, again = play(absent, absent).results
    assert actions(gone) == ["deleted", "deleted"]
    assert not objects("secrets", namespace)
    assert actions(again) == ["absent", "absent"]
    assert not again["changed"]


def test_keys_that_cannot_be_one_are_refused_before_anything_is_sent(play, done, audit):
    bad = ["", "changeme", "<your key>", "$NGC_API_KEY", "nvapi-...", "too short", "nvapi-with a space in the middle"]
    with audit(done) as seen:
        results = play(*(secret(done, ngc_api_key=key) for key in bad), fails=True).results
    for key, result in zip(bad, results, strict=True):
        assert "ngc_api_key" in result["msg"]
        assert not key or key not in result["msg"].replace("$NGC_API_KEY or", "")
    assert not seen.requests
