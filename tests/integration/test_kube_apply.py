# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_apply on a real API server, with real pods."""

from __future__ import annotations

import json
import os

import pytest

pytestmark = pytest.mark.rehearsal

IMAGE = "gpuops.nim/pause:1"  # the sandbox's, which is on the node
GROUP = f"test{os.getpid()}.gpuops.nim"


def task(*objects, **options):
    return {"gpuops.nim.kube_apply": {"objects": list(objects), **options}}


def actions(result):
    return {f"{each['kind']} {each['name']}": each["action"] for each in result["objects"]}


def config_map(namespace, name="settings", **data):
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data or {"colour": "green"}}


def workload(namespace, kind="Deployment", image=IMAGE, **pod):
    labels = {"app": kind.lower()}
    container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["/pause"]}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **pod},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "sleeper", "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def namespace_of(name):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def definition(plural="lamps", kind="Lamp", scope="Namespaced"):
    """As generators write it, with what only the server sets."""
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "creationTimestamp": None},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
        "status": {"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": []},
    }


def lamp(namespace, name="desk", kind="Lamp"):
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"on": True},
    }


@pytest.fixture
def known(kubectl):
    yield
    kubectl("delete", "crd", "--ignore-not-found", f"lamps.{GROUP}", f"suns.{GROUP}")


@pytest.mark.usefixtures("known")
def test_kinds_and_namespaces_come_before_what_needs_them(play, name_namespace, audit, kubectl):
    namespace = name_namespace("batch")
    sun = lamp(namespace, "sol", "Sun")  # its kind lives in no namespace, though generated manifests may say one
    objects = [lamp(namespace), sun, config_map(namespace), definition(), definition("suns", "Sun", "Cluster")]
    objects.append(namespace_of(namespace))
    titles = {"Lamp desk", "Sun sol", "ConfigMap settings", f"Namespace {namespace}"}
    titles |= {f"CustomResourceDefinition {plural}.{GROUP}" for plural in ("lamps", "suns")}

    checked = play(task(*objects), check=True, diff=True).result
    assert actions(checked) == dict.fromkeys(titles, "created")
    assert len(checked["diff"]) == len(objects)
    assert any("Lamp" in text for text in checked["warnings"])
    assert not kubectl("get", "crd", "--ignore-not-found", f"lamps.{GROUP}")

    made = play(task(*objects)).result
    assert actions(made) == dict.fromkeys(titles, "created")
    assert kubectl("get", f"lamps.{GROUP}", "-n", namespace, "-o", "jsonpath={.items[*].spec.on}") == "true"

    with audit(namespace) as seen:
        again = play(task(*objects)).result
    assert not again["changed"]
    assert seen.requests
    assert not seen.writes
    assert not play(task(*objects), check=True).result["changed"]


@pytest.mark.usefixtures("known")
def test_a_kind_does_not_take_its_objects_with_it_unless_told(play, new_namespace, kubectl, apply):
    namespace = new_namespace("kind")
    play(task(definition()))
    apply(lamp(namespace, "of-somebody"))
    gone = task(definition(), config_map(namespace), state="absent", wait=True)
    assert f"Lamp {namespace}/of-somebody" in play(gone, fails=True).result["msg"]
    assert kubectl("get", f"lamps.{GROUP}", "-n", namespace, "-o", "name")

    told = task(definition(), state="absent", wait=True, delete_custom_objects=True)
    assert play(told).result["changed"]
    assert not kubectl("get", "crd", "--ignore-not-found", f"lamps.{GROUP}")
    # objects of a kind that nobody knows any more are gone, too
    again = play(task(definition(), lamp(namespace), state="absent", wait=True)).result
    assert not again["changed"]
    assert set(actions(again).values()) == {"absent"}


@pytest.mark.matrix
def test_change_and_removal_are_the_same_in_every_way_of_running(in_all_ways, play, new_namespace, objects):
    namespace = new_namespace("ways")
    play(task(config_map(namespace, colour="green", old="1")))
    changed = in_all_ways(task(config_map(namespace, colour="red")), check=True, diff=True)
    assert changed["diff"][0]["after"]["data"] == {"colour": "red"}
    play(task(config_map(namespace, colour="red")))
    assert objects("configmaps", namespace)["settings"]["data"] == {"colour": "red"}
    assert actions(in_all_ways(task(config_map(namespace, colour="red")))) == {"ConfigMap settings": "unchanged"}

    gone = task(config_map(namespace), state="absent", wait=True)
    assert play(gone, check=True).result["changed"]
    assert "settings" in objects("configmaps", namespace)
    assert play(gone).result["changed"]
    assert "settings" not in objects("configmaps", namespace)
    assert not play(gone).result["changed"]


def test_what_others_made_is_theirs_until_it_is_taken_over(play, new_namespace, apply, objects):
    namespace = new_namespace("foreign")
    apply(config_map(namespace, colour="blue"))
    for state in ("present", "absent"):
        refused = play(task(config_map(namespace), config_map(namespace, "other"), state=state), fails=True).result
        assert "isn't ours" in refused["msg"]
        assert "settings" in refused["msg"]
    assert objects("configmaps", namespace)["settings"]["data"] == {"colour": "blue"}
    # a namespace only has to be there, unless something is said of it
    assert actions(play(task(namespace_of(namespace))).result) == {f"Namespace {namespace}": "unchanged"}
    labelled = {**namespace_of(namespace), "metadata": {"name": namespace, "labels": {"a": "b"}}}
    assert "isn't ours" in play(task(labelled), fails=True).result["msg"]
    assert play(task(config_map(namespace), adopt=True)).result["changed"]
    assert objects("configmaps", namespace)["settings"]["data"] == {"colour": "green"}


def test_input_that_is_no_object_is_refused_before_anything_is_sent(play, new_namespace, objects):
    namespace = new_namespace("bad")
    refused = play(task(config_map(namespace), {"kind": "ConfigMap", "metadata": {}}), fails=True).result
    assert "objects[1] (ConfigMap)" in refused["msg"]
    assert "settings" not in objects("configmaps", namespace)
    nowhere = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    assert "metadata.namespace" in play(task(nowhere), fails=True).result["msg"]
    assert (
        "Lamp (nobody.example.com/v1)"
        in play(task({**lamp(namespace), "apiVersion": "nobody.example.com/v1"}), fails=True).result["msg"]
    )


def test_it_waits_until_what_is_written_now_is_up(play, new_namespace, objects):
    namespace = new_namespace("rollout")
    both = [workload(namespace), workload(namespace, "DaemonSet")]
    played = play(task(*both, wait=True))
    assert played.result["changed"]
    for kind, count in (("deployments", "availableReplicas"), ("daemonsets", "numberAvailable")):
        assert objects(kind, namespace)["sleeper"]["status"][count] == 1
    assert f"[Deployment {namespace}/sleeper]" in played.stderr
    assert not play(task(*both, wait=True)).result["changed"]

    # the old pods go on, so counting what is available would call this success
    broken = [workload(namespace, kind, "nvcr.io/nowhere/nothing:1") for kind in ("Deployment", "DaemonSet")]
    failed = play(task(*broken, wait=True, wait_timeout=12), fails=True).result
    for kind in ("Deployment", "DaemonSet"):
        (line,) = [line for line in failed["msg"].splitlines() if line.startswith(f"{kind} {namespace}/sleeper")]
        assert "on node rehearsal" in line
        assert "nvcr.io/nowhere/nothing:1" in line
    assert failed["changed"]
    assert set(actions(failed).values()) == {"changed"}


def test_a_pod_that_can_not_be_made_says_why(play, new_namespace):
    volumes = [{"name": "lost", "configMap": {"name": "nowhere"}}]
    lost = workload(new_namespace("unmade"), volumes=volumes)
    lost["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "lost", "mountPath": "/lost"}]
    said = play(task(lost, wait=True, wait_timeout=6), fails=True).result["msg"]
    assert "FailedMount: MountVolume.SetUp failed" in said
    assert 'configmap "nowhere" not found' in said


def test_pods_that_fit_nowhere_and_pods_that_may_not_be_made(play, new_namespace, kubectl):
    namespace = new_namespace("nowhere")
    lost = workload(namespace, nodeSelector={"no": "such-node"})
    said = play(task(lost, wait=True, wait_timeout=4), fails=True).result["msg"]
    assert "didn't match Pod's node affinity/selector" in said
    kubectl("create", "quota", "none", "--hard=pods=0", "-n", namespace)
    play(task(lost, state="absent", wait=True))
    assert "exceeded quota: none" in play(task(lost, wait=True, wait_timeout=6), fails=True).result["msg"]
    # a DaemonSet that no node asks for is up
    assert play(task(workload(namespace, "DaemonSet", nodeSelector={"no": "such-node"}), wait=True)).result["changed"]
    assert (
        json.loads(kubectl("get", "daemonset", "sleeper", "-n", namespace, "-o", "json"))["status"][
            "desiredNumberScheduled"
        ]
        == 0
    )
