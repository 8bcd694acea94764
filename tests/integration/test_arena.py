# SPDX-License-Identifier: GPL-3.0-or-later
"""What arena, the tool of the original procedure, leaves on a cluster: what is adopted is the real thing."""

from __future__ import annotations

import pytest

from rehearsal.layout import SMALL_REQUESTS
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

NAME = "llama3-8b-instruct"
# the original's own line
LINE = (
    f"--name={NAME}",
    f"--image=nvcr.io/nim/meta/{NAME}:1.0.0",
    "--image-pull-secret=ngc-secret",
    "--gpus=1",
    "--cpu=4",
    "--memory=16Gi",
    "--share-memory=16Gi",
    "--port=8000",
    "--security-context",
    "runAsUser=0",
    "--annotation=serving.kserve.io/autoscalerClass=external",
    "--env",
    "NIM_CACHE_PATH=/mnt/models",
    "--env-from-secret",
    "NGC_API_KEY=nvidia-nim-secrets",
    "--enable-prometheus=true",
    "--metrics-port=8000",
    "--data=nim-model:/mnt/models",
)


@pytest.fixture(scope="module")
def space(play, new_namespace, kubectl, apply):
    """A namespace with both Secrets and the claim, in which the original's sizes fit."""
    namespace = new_namespace("arena")
    kubectl("label", "namespace", namespace, "=".join(SMALL_REQUESTS))
    play({"gpuops.nim.nim_secret": {"namespace": namespace, "ngc_api_key": KEYS["valid"]}})
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "nim-model", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
    return namespace


@pytest.mark.usefixtures("monitoring_crds")
def test_the_original_line_deploys_a_service_and_its_leftovers(arena, space, objects, kubectl):
    assert "submitted successfully" in arena("serve", "kserve", f"--namespace={space}", *LINE).stderr
    isvc = objects("inferenceservice", space)[NAME]
    labels = {"heritage": "Helm", "servingType": "kserve", "servingName": NAME, "release": NAME, "app": "kserve"}
    assert labels.items() <= isvc["metadata"]["labels"].items()
    assert isvc["metadata"]["annotations"]["arena.kubeflow.org/username"]
    assert set(objects("configmap", space)[f"{NAME}-kserve"]["data"]) == {"app", "values", "kserve"}
    assert f"{NAME}-metric-svc" in objects("service", space)
    assert f"{NAME}-svcmonitor" in objects("servicemonitor", space)
    kubectl("wait", "--for=condition=Ready", f"inferenceservice/{NAME}", "-n", space, "--timeout=120s")
    again = arena("serve", "kserve", f"--namespace={space}", *LINE, rc=None)
    assert again.returncode
    assert "already exist" in again.stdout + again.stderr
    arena("serve", "delete", NAME, f"--namespace={space}")
    assert NAME not in objects("inferenceservice", space)


# -- taken over

OURS = {
    "name": NAME,
    "image": f"nvcr.io/nim/meta/{NAME}:1.0.0",
    "cpu": "4",
    "memory": "16Gi",
    "share_memory": "8Gi",
    "cache": {"claim": "nim-model"},
    "enable_prometheus": True,
    "adopt": True,
    "wait_timeout": 120,
}


@pytest.fixture(scope="module")
def adopted(arena, monitoring_crds, play, space, objects, kubectl):
    """A service that arena made, taken over: in check mode, really, and again."""
    arena("serve", "kserve", f"--namespace={space}", *LINE)
    kubectl("wait", "--for=condition=Ready", f"inferenceservice/{NAME}", "-n", space, "--timeout=120s")
    task = {"gpuops.nim.nim_kserve": {"namespace": space, **OURS}}
    planned = play(task, check=True, diff=True).result
    assert objects("inferenceservice", space)[NAME]["metadata"]["labels"]["heritage"] == "Helm"
    first = play(task, diff=True).result
    return {"planned": planned, "first": first, "again": play(task, diff=True).result}


def revisions(objects, space, name):
    return [each for each in objects("replicasets", space) if each.startswith(f"{name}-predictor")]


def test_a_service_of_arenas_is_taken_over_with_one_rollout(adopted, space, objects):
    first = adopted["first"]
    assert first["services"][0]["state"] == "ready"
    assert len(revisions(objects, space, NAME)) == 2
    isvc = objects("inferenceservice", space)[NAME]
    assert not {"heritage", "servingType", "servingName", "release", "app"} & isvc["metadata"]["labels"].keys()
    assert "arena.kubeflow.org/username" not in isvc["metadata"]["annotations"]
    assert isvc["spec"]["predictor"]["securityContext"] == {"fsGroup": 1000}
    assert "inferenceservice.finalizers" in isvc["metadata"]["finalizers"]
    assert not adopted["again"]["changed"]


def test_what_arena_kept_beside_it_is_gone_or_ours(adopted, space, objects):
    assert f"{NAME}-kserve" not in objects("configmap", space)
    for kind, name in (("service", f"{NAME}-metric-svc"), ("servicemonitor", f"{NAME}-svcmonitor")):
        labels = objects(kind, space)[name]["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "gpuops.nim"
        assert "isvc" not in labels


def test_the_diff_lists_the_fields_taken_and_check_mode_shows_the_same(adopted):
    (service,) = [d for d in adopted["first"]["diff"] if d["before_header"].startswith("InferenceService")]
    held = [path for paths in service["before"]["fields held by others"].values() for path in paths]
    for path in (
        "metadata.labels.servingName",
        "spec.predictor.containers",
        "spec.predictor.securityContext.runAsUser",
    ):
        assert path in held
    assert adopted["planned"]["diff"] == adopted["first"]["diff"]


def test_a_service_that_kubectl_made_is_taken_over_with_one_rollout(play, space, apply, objects, kubectl):
    container = {
        "name": "kserve-container",
        "image": OURS["image"],
        "ports": [{"containerPort": 8000}],
        "env": [
            {"name": "NGC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}}}
        ],
    }
    predictor = {
        "containers": [container],
        "imagePullSecrets": [{"name": "ngc-secret"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "minReplicas": 1,
    }
    metadata = {"name": "byhand", "namespace": space, "labels": {"team": "a"}}
    apply(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata,
            "spec": {"predictor": predictor},
        }
    )
    kubectl("wait", "--for=condition=Ready", "inferenceservice/byhand", "-n", space, "--timeout=120s")
    ours = {**OURS, "name": "byhand", "gpus": 0, "enable_prometheus": False, "cache": None}
    task = {"gpuops.nim.nim_kserve": {"namespace": space, **{k: v for k, v in ours.items() if v is not None}}}
    refused = play({"gpuops.nim.nim_kserve": {**task["gpuops.nim.nim_kserve"], "adopt": False}}, fails=True).result
    assert "adopt: true" in refused["msg"]
    first, again = play(task, task).results
    assert (first["services"][0]["state"], again["changed"]) == ("ready", False)
    assert len(revisions(objects, space, "byhand")) == 2
    live = objects("inferenceservice", space)["byhand"]
    assert "team" not in live["metadata"]["labels"]
    assert "nodeSelector" not in live["spec"]["predictor"]
    assert "kubectl.kubernetes.io/last-applied-configuration" not in live["metadata"]["annotations"]
