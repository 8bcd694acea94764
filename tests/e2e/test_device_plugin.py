# SPDX-License-Identifier: GPL-3.0-or-later
"""The role device_plugin: a real kubelet gets its GPUs from the plugin that the role's DaemonSet runs."""

from __future__ import annotations

import json

import pytest
import yaml

from rehearsal.images import PLUGIN
from rehearsal.layout import GPUS, NODE

pytestmark = pytest.mark.bare

# what the runtime is told by name, and what CDI has put into the container
SAYS = """import os, time
given = (os.environ[name] for name in os.environ if "STANDIN_GPU_" in name)
print(os.environ["NVIDIA_VISIBLE_DEVICES"], *given, flush=True)
time.sleep(3600)"""
NFD = "nodefeatures.nfd.k8s-sigs.io"


@pytest.fixture(scope="module")
def role(bare):
    """`role("--check", device_plugin_gfd=True)`: the role on a bare cluster."""

    def role(*modes, rc=0, **variables):
        ours = {"device_plugin_expected": {NODE: GPUS}, "device_plugin_wait_timeout": 60}
        return bare.role("device_plugin", *modes, rc=rc, **{**ours, **variables})

    yield role
    role(device_plugin_state="absent")
    bare.kubectl("delete", "pod", "computes", "-n", "default", "--ignore-not-found", "--now")


def allocatable(bare, resource="nvidia.com/gpu"):
    return int(bare.get("node", NODE)["status"]["allocatable"].get(resource, 0))


def computes(bare, gpus=2):
    """A pod that asks for GPUs and says what it was given."""
    container = {
        "name": "main",
        "image": f"nvcr.io/{PLUGIN}",
        "command": ["/usr/bin/python3", "-c", SAYS],
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    pod = {"metadata": {"name": "computes", "namespace": "default"}, "spec": spec}
    bare.kubectl("apply", "-f", "-", stdin=yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **pod}))


def test_gpus_become_allocatable_and_containers_get_theirs(bare, role, until):
    said, counts = role("--check", "--diff")
    assert counts["changed"] == 1
    assert "nvidia-device-plugin" in said
    assert not bare.kubectl("get", "runtimeclass", "nvidia", "--ignore-not-found")

    role()
    assert allocatable(bare) == GPUS
    assert bare.get("runtimeclass", "nvidia")["handler"] == "nvidia"
    pods = bare.get("pods", "-n", "nvidia-device-plugin")["items"]
    assert [pod["spec"]["runtimeClassName"] for pod in pods] == ["nvidia"]

    computes(bare)
    bare.kubectl("wait", "pod/computes", "-n", "default", "--for=condition=Ready", "--timeout=60s")
    logs = ("logs", "computes", "-n", "default")
    visible, *given = until(lambda: bare.kubectl(*logs).split(), "what the container was given")
    assert visible == "void", "what CDI has brought is not for NVIDIA's runtime to bring again"
    assert len(set(given)) == 2
    assert all(gpu.startswith("GPU-") for gpu in given)

    for modes in ((), ("--check",)):
        _, counts = role(*modes)
        assert counts["changed"] == 0


def test_sharing_reaches_the_kubelet_and_running_pods_keep_their_gpus(bare, role):
    before = bare.get("pod", "computes", "-n", "default")["metadata"]["uid"]
    sliced = {"device_plugin_time_slicing_replicas": 3}
    _, counts = role(**sliced)
    assert counts["changed"] == 1
    assert allocatable(bare) == 3 * GPUS
    renamed = {**sliced, "device_plugin_time_slicing_rename": True}
    role(**renamed)
    assert allocatable(bare, "nvidia.com/gpu.shared") == 3 * GPUS
    config = bare.get("configmap", "nvidia-device-plugin", "-n", "nvidia-device-plugin")["data"]["config.yaml"]
    assert yaml.safe_load(config)["sharing"]["timeSlicing"] == {
        "renameByDefault": True,
        "failRequestsGreaterThanOne": True,
        "resources": [{"name": "nvidia.com/gpu", "replicas": 3}],
    }
    role()
    assert allocatable(bare) == GPUS
    pod = bare.get("pod", "computes", "-n", "default")
    assert (pod["metadata"]["uid"], pod["status"]["phase"]) == (before, "Running")


def test_gpu_feature_discovery_may_do_what_it_does_and_goes_when_unwanted(bare, role, until):
    kind = yaml.safe_dump(crd("nfd.k8s-sigs.io", "v1alpha1", "NodeFeature", "nodefeatures", "Namespaced"))
    bare.kubectl("apply", "-f", "-", stdin=kind)
    try:
        until(lambda: "nodefeatures" in bare.kubectl("api-resources", "-o", "name"), "its kind")
        role(device_plugin_gfd=True)
        _, counts = role(device_plugin_gfd=True)
        assert counts["changed"] == 0
        pod = bare.get("daemonset", "gpu-feature-discovery", "-n", "nvidia-device-plugin")["spec"]["template"]["spec"]
        account = f"system:serviceaccount:nvidia-device-plugin:{pod['serviceAccountName']}"
        for verb, what in (("get", "pods"), ("get", NFD), ("create", NFD), ("update", NFD)):
            bare.kubectl("auth", "can-i", verb, what, "-n", "nvidia-device-plugin", f"--as={account}")
        role()
        left = bare.kubectl("get", "daemonset,sa", "-n", "nvidia-device-plugin", "-o", "name")
        assert "gpu-feature-discovery" not in left
    finally:
        bare.kubectl("delete", "-f", "-", stdin=kind)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"device_plugin_expected": {NODE: GPUS + 1}},
            (f"node {NODE}", f"{GPUS} nvidia.com/gpu", f"{GPUS + 1} expected"),
        ),
        ({"device_plugin_expected": {NODE: GPUS, "gpu-9": 8}}, ("node gpu-9", "no node of that name")),
        ({"device_plugin_version": "v0.0.1"}, (f"node {NODE}", "k8s-device-plugin:v0.0.1")),
        ({"device_plugin_node_selector": {"no": "node"}}, (f"node {NODE}", "labels and taints")),
        # while the node still offers what the plugin before it did
        ({"device_plugin_device_list_strategy": ["volume-mounts"]}, (f"node {NODE}", "does not know volume-mounts")),
    ],
)
def test_a_node_that_does_not_offer_its_gpus_is_named_with_the_reason(role, variables, words):
    said, _ = role(rc=2, device_plugin_wait_timeout=12, **variables)
    for word in words:
        assert word in said.replace("\n", " ")
    role()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"device_plugin_mig_strategy": "some"}, ("device_plugin_mig_strategy", "single")),
        ({"device_plugin_time_slicing_replicas": 0}, ("device_plugin_time_slicing_replicas", "1 is a whole GPU")),
        (
            {"device_plugin_time_slicing_replicas": 2, "device_plugin_mig_strategy": "mixed"},
            ("device_plugin_time_slicing_replicas", "mixed"),
        ),
        ({"device_plugin_device_list_strategy": ["envvar", "volume-mounts"]}, ("exclude each other",)),
        ({"device_plugin_gfd": True}, ("device_plugin_gfd", "Node Feature Discovery")),
        ({"device_plugin_expected": {NODE: "many"}}, ("many",)),
    ],
)
def test_what_can_not_be_is_refused_before_anything_changes(bare, role, variables, words):
    what = ("daemonset", "nvidia-device-plugin", "-n", "nvidia-device-plugin")
    before = bare.get(*what)["metadata"]["generation"]
    said, _ = role(rc=2, **variables)
    for word in words:
        assert word in " ".join(said.split())
    assert bare.get(*what)["metadata"]["generation"] == before


def daemon_set(name, namespace="kube-system", image="registry.example.com/k8s-device-plugin:1"):
    labels = {"name": name}
    volume = {"name": "sockets", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}
    pod = {"containers": [{"name": "main", "image": image}], "volumes": [volume], "nodeSelector": {"no": "node"}}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    metadata = {"name": name, "namespace": namespace}
    return [{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec}]


def crd(group, version, kind, plural, scope="Cluster"):
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    versions = [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": scope, "names": names, "versions": versions},
    }


def operator():
    policy = {"apiVersion": "nvidia.com/v1", "kind": "ClusterPolicy", "metadata": {"name": "cluster-policy"}}
    return [crd("nvidia.com", "v1", "ClusterPolicy", "clusterpolicies"), policy]


def dra():
    return [
        {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "gpu.nvidia.com"}, "spec": {}}
    ]


OTHERS = {
    "ack": daemon_set("ack-nvidia-device-plugin"),
    "gpu_operator": operator(),
    "dra": dra(),
    "other": daemon_set("nvidia-device-plugin-daemonset"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_there_are_never_two(bare, role, name, until):
    role(device_plugin_state="absent")
    for obj in OTHERS[name]:
        text = yaml.safe_dump(obj)
        if obj["kind"] == "ClusterPolicy":
            until(lambda: "clusterpolicies" in bare.kubectl("api-resources", "-o", "name"), "its kind")
        bare.kubectl("apply", "-f", "-", stdin=text)
    try:
        for state in ("present", "absent"):
            said, counts = role(device_plugin_state=state)
            assert counts["changed"] == 0
            assert f"{name} offers the GPUs of this cluster" in " ".join(said.split())
            assert OTHERS[name][-1]["metadata"]["name"] in said
        assert not bare.kubectl("get", "daemonset", "-n", "nvidia-device-plugin", "-o", "name")
    finally:
        for obj in OTHERS[name][::-1]:
            bare.kubectl("delete", "-f", "-", stdin=yaml.safe_dump(obj))


def test_a_runtime_class_of_the_distribution_is_left_as_it_is(bare, role):
    role(device_plugin_state="absent")
    theirs = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "nvidia"},
        "handler": "nvidia",
    }
    bare.kubectl("create", "-f", "-", stdin=yaml.safe_dump(theirs))
    role()
    assert allocatable(bare) == GPUS
    role(device_plugin_state="absent")
    assert "app.kubernetes.io/managed-by" not in json.dumps(bare.get("runtimeclass", "nvidia"))
    bare.kubectl("delete", "runtimeclass", "nvidia")


def test_it_goes_without_taking_a_running_pod(bare, role, until):
    role()
    role(device_plugin_state="absent")
    until(lambda: not allocatable(bare), "the kubelet to see that the plugin is gone", 90)
    assert not bare.kubectl("get", "runtimeclass", "-o", "name")
    assert bare.get("pod", "computes", "-n", "default")["status"]["phase"] == "Running"
    _, counts = role(device_plugin_state="absent")
    assert counts["changed"] == 0
