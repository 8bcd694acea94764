# SPDX-License-Identifier: GPL-3.0-or-later
"""The original's own scene: arena made the service, its key is dead, its image never pulled. One command mends it."""

from __future__ import annotations

import json
import time

import pytest
import requests

from rehearsal.layout import SMALL_REQUESTS, url
from rehearsal.standins.ngc import KEYS
from tests.e2e.test_leak import holds
from tests.integration.test_arena import LINE, NAME

pytestmark = [pytest.mark.rehearsal, pytest.mark.leak]

DEAD, GOOD = KEYS["expired"], KEYS["second"]
JOB = "arena-client-config-job"


@pytest.fixture(scope="module")
def scene(arena, monitoring_crds, new_namespace, kubectl, apply, objects, until):
    """A namespace with what the one-click service leaves: secrets, claim, service and the Job that made it."""
    namespace = new_namespace("rotate-scene")
    kubectl("label", "namespace", namespace, "=".join(SMALL_REQUESTS))

    def make(kind, name, version="v1", **more):
        apply({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **more})

    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    make("PersistentVolumeClaim", "nim-model", spec=claim)
    login = ("--docker-server=nvcr.io", "--docker-username=$oauthtoken", f"--docker-password={DEAD}")
    kubectl("create", "secret", "docker-registry", "ngc-secret", "-n", namespace, *login)
    kubectl("create", "secret", "generic", "nvidia-nim-secrets", "-n", namespace, f"--from-literal=NGC_API_KEY={DEAD}")
    make("ServiceAccount", "arena-client-sa")
    pod = {
        "serviceAccountName": "arena-client-sa",
        "restartPolicy": "Never",
        "containers": [{"name": "arena", "image": "arena.invalid/arena:0.9.16"}],
    }
    make("Job", JOB, "batch/v1", spec={"activeDeadlineSeconds": 1, "template": {"spec": pod}})
    # a node that has the image already would need no key for it
    arena("serve", "kserve", f"--namespace={namespace}", *LINE, "--image-pull-policy=Always")

    def reason():
        for pod in objects("pods", namespace).values():
            for status in pod["status"].get("containerStatuses", []):
                if status["name"] == "kserve-container":
                    return status["state"].get("waiting", {}).get("reason")
        return None

    until(lambda: reason() == "ImagePullBackOff", "the image is not pulled", 120)
    until(lambda: objects("jobs", namespace)[JOB]["status"].get("conditions"), "the Job has ended")
    time.sleep(1.1)  # Kubernetes' times have whole seconds
    yield namespace
    kubectl("delete", "inferenceservice", NAME, "-n", namespace)  # its GPU


@pytest.fixture
def playbook(run, scene):
    """Runs one with all that can be shown; fails where that holds a key."""

    def playbook(name, *args, rc=0, key=GOOD):
        extra = json.dumps({"nim_predictor_rotate_namespaces": [scene], "diagnose_namespaces": [scene]})
        command = ("ansible-playbook", f"playbooks/{name}.yml", "-vvvv", "--diff", "-e", extra, *args)
        done = run(*command, rc=rc, env={"NGC_API_KEY": key})
        for secret in (DEAD, GOOD):
            assert not holds((done.stdout + done.stderr).encode(), secret)
        return done

    return playbook


def test_a_service_of_arenas_with_a_dead_key_is_named_mended_and_answers(playbook, scene, objects):
    named = playbook("diagnose", rc=2).stdout
    assert NAME in named
    assert "key" in named

    before = objects("secrets", scene)
    assert "invalid" in playbook("rotate_key", "-e", "nim_predictor_adopt=true", rc=2, key=DEAD).stdout
    assert "adopt: true" in playbook("rotate_key", rc=2).stdout
    planned = playbook("rotate_key", "-e", "nim_predictor_adopt=true", "--check").stdout
    assert f"would be renewed: {NAME} in namespace {scene}, its pod served nobody" in planned
    assert objects("secrets", scene) == before
    assert JOB in objects("jobs", scene)

    done = playbook("rotate_key", "-e", "nim_predictor_adopt=true").stdout
    for part in (
        f"changed: secret ngc-secret in namespace {scene}",
        f"changed: secret nvidia-nim-secrets in namespace {scene}",
        f"renewed: {NAME} in namespace {scene}, its pod served nobody",
        "meta/llama3-8b-instruct answers",
        f"deleted: job {JOB} in namespace {scene} (failed)",
        f"namespace {scene}: nothing uses another key",
        "The old key can be revoked.",
    ):
        assert part in done
    assert JOB not in objects("jobs", scene)
    assert objects("inferenceservice", scene)[NAME]["metadata"]["labels"]["servingType"] == "kserve"  # still arena's

    body = {"model": "meta/llama3-8b-instruct", "messages": [{"role": "user", "content": "Hi"}]}
    host = {"Host": f"{NAME}-{scene}.example.com"}
    answer = requests.post(f"{url('ingress')}/v1/chat/completions", json=body, headers=host, timeout=30)
    assert answer.json()["choices"][0]["message"]["content"]

    assert "changed=0" in playbook("rotate_key", "-e", "nim_predictor_adopt=true").stdout


def test_no_key_is_refused_in_words(playbook):
    assert "ngc_api_key: no key was given" in playbook("rotate_key", rc=2, key="").stdout
