# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that is stopped and started again, and how `update_strategy: auto` deals with the GPUs there are."""

from __future__ import annotations

import time

import pytest

from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct"
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}


def kserve(namespace, **options):
    return {"gpuops.nim.nim_kserve": {"namespace": namespace, "image": f"{IMAGE}:1.0.0", **SMALL, **options}}


def one(result):
    (service,) = result["services"]
    return service


@pytest.fixture(scope="module")
def space(play, new_namespace):
    namespace = new_namespace("states")
    play({"gpuops.nim.nim_secret": {"namespace": namespace, "ngc_api_key": KEYS["valid"]}})
    return namespace


@pytest.fixture
def pods(objects, space):
    return lambda name: [pod for pod in objects("pods", space) if pod.startswith(f"{name}-predictor")]


# -- stopped


def test_stopped_keeps_everything_but_the_pods_and_present_starts_it_again(play, space, objects, pods, audit):
    service = {"name": "nap", "cache": {"claim": "nap-models", "size": "1Gi"}, "enable_prometheus": True}
    stop = {"gpuops.nim.nim_kserve": {"name": "nap", "namespace": space, "state": "stopped", "wait_timeout": 90}}
    assert one(play(kserve(space, **service)).result)["state"] == "ready"
    made = objects("inferenceservice", space)["nap"]["spec"]

    checked = play(stop, check=True, diff=True).result
    assert (checked["changed"], one(checked)["action"]) == (True, "stopped")
    assert "serving.kserve.io/stop" in checked["diff"][0]["after"]["metadata"]["annotations"]
    assert pods("nap")

    stopped = play(stop).result
    assert (stopped["changed"], one(stopped)["state"]) == (True, "stopped")
    assert not pods("nap")
    assert "nap-models" in objects("pvc", space)
    with audit(space) as seen:
        again = play(stop).result
    assert (again["changed"], one(again)["state"]) == (False, "stopped")
    assert not seen.writes

    planned, started, unchanged = (
        play(kserve(space, **service), check=True).result,
        *play(kserve(space, **service), kserve(space, **service)).results,
    )
    assert planned["changed"]
    assert (started["changed"], one(started)["action"], one(started)["state"]) == (True, "changed", "ready")
    assert not unchanged["changed"]
    assert objects("inferenceservice", space)["nap"]["spec"] == made


def test_what_is_not_there_or_not_ours_is_not_stopped(play, space, apply, objects):
    container = {"name": "kserve-container", "image": f"{IMAGE}:1.0.0"}
    apply(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "foreign", "namespace": space},
            "spec": {"predictor": {"containers": [container], "minReplicas": 1}},
        }
    )
    both = {"services": [{"name": "foreign"}, {"name": "nobody"}], "namespace": space, "state": "stopped"}
    message = play({"gpuops.nim.nim_kserve": both}, fails=True).result["msg"]
    assert "no such service to stop" in message
    assert "exists and isn't ours" in message
    assert "serving.kserve.io/stop" not in objects("inferenceservice", space)["foreign"]["metadata"]["annotations"]


# -- policies


@pytest.fixture
def policy(apply, kubectl, new_namespace):
    """A namespace in which Deployments get a variable, as company policies do it."""
    name, namespace = "states.gpuops.test", new_namespace("states-policy")
    expression = """Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
        containers: object.spec.template.spec.containers.map(c, Object.spec.template.spec.containers{name: c.name,
            env: [Object.spec.template.spec.containers.env{name: "TEAM", value: "a"}]})}}}}"""
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "resources": ["deployments"],
        "operations": ["CREATE", "UPDATE"],
    }
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
    }
    match = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    apply({**head, "kind": "MutatingAdmissionPolicy", "spec": spec})
    apply({**head, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": name, "matchResources": match}})
    time.sleep(2)  # the API server has to hear of it
    yield namespace
    kubectl("delete", "mutatingadmissionpolicybinding,mutatingadmissionpolicy", name)


def test_a_policy_that_changes_deployments_is_no_reason_to_wait_for_ever(play, policy, objects):
    def service(tag):
        return kserve(policy, name="llama", image=f"{IMAGE}:{tag}", update_strategy="in_place")

    play({"gpuops.nim.nim_secret": {"namespace": policy, "ngc_api_key": KEYS["valid"]}})
    made, again = play(service("1.0.0"), service("1.0.0")).results
    assert "TEAM" in str(objects("deployment", policy)["llama-predictor"]["spec"]["template"])
    assert (one(made)["state"], one(again)["state"], again["changed"]) == ("ready", "ready", False)
    upgrade = {"name": "llama", "namespace": policy, "tag": "1.0.3", "chat": {"api": "none"}, "wait_timeout": 120}
    assert one(play({"gpuops.nim.nim_upgrade": upgrade}).result)["action"] == "upgraded"
    # a release that can't be had is as little ready as without a policy
    broken = play(service("9.9.9"), fails=True).result
    assert one(broken)["state"] == "failed"


# -- update_strategy: auto


def test_auto_surges_where_a_gpu_is_free_and_ends_the_old_pod_first_where_none_is(play, space, objects, free_gpus):
    def image(tag, gpus):
        return kserve(space, name="auto", image=f"{IMAGE}:{tag}", gpus=gpus)

    def strategy():
        return objects("deployment", space)["auto-predictor"]["spec"]["strategy"]["type"]

    first = play(image("1.0.0", 1))
    assert one(first.result)["update_strategy"] == "in_place"
    surged = play(image("1.0.3", 1))
    assert one(surged.result)["update_strategy"] == "surge"
    assert "has room for a second pod" in surged.stderr
    assert strategy() == "RollingUpdate"

    # all GPUs: a second pod can't fit, and a rollout that waits for one would never end
    grown, back, same = play(*(image(tag, free_gpus) for tag in ("1.0.3", "1.0.0", "1.0.0"))).results
    assert one(grown)["update_strategy"] == "in_place"
    assert (one(back)["update_strategy"], one(back)["state"]) == ("in_place", "ready")
    assert strategy() == "Recreate"
    assert not same["changed"]

    # room that comes free is no change
    smaller, again = play(image("1.0.0", 1), image("1.0.0", 1)).results
    assert smaller["changed"]
    assert not again["changed"]


def test_auto_without_the_right_to_see_the_nodes_is_careful(play, space, kubectl):
    account = f"system:serviceaccount:{space}:deployer"
    kubectl("create", "serviceaccount", "deployer", "-n", space)
    kubectl(
        "create", "rolebinding", "deployer", "--clusterrole=admin", f"--serviceaccount={space}:deployer", "-n", space
    )
    kubectl(
        "create", "role", "kserve", "--verb=*", "--resource=inferenceservices.serving.kserve.io,events", "-n", space
    )
    kubectl("create", "rolebinding", "kserve", "--role=kserve", f"--serviceaccount={space}:deployer", "-n", space)
    limited = {"impersonate_user": account, "deployment_mode": "Standard"}
    play(kserve(space, name="careful", **limited))
    changed = play(kserve(space, name="careful", image=f"{IMAGE}:1.0.3", **limited))
    assert (one(changed.result)["update_strategy"], one(changed.result)["state"]) == ("in_place", "ready")
    assert "whether a second pod would fit is not known" in changed.stderr
