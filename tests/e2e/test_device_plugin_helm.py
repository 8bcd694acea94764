# SPDX-License-Identifier: GPL-3.0-or-later
"""The role device_plugin with Helm: the program, NVIDIA's chart and its config-manager are the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rehearsal import toolchain
from rehearsal.layout import GPUS, NODE
from rehearsal.progress import Progress
from tests.conftest import ROOT
from tests.e2e.test_device_plugin import allocatable, computes, crd
from tests.peer import peer_collection

pytestmark = pytest.mark.bare
HELM = {"device_plugin_delivery": "helm"}
SPACE = ("-n", "nvidia-device-plugin")


@pytest.fixture(scope="module")
def folders(bare):
    return toolchain.build(bare.layout, Progress(), "helm", "k8s-device-plugin-chart").folders


@pytest.fixture(scope="module")
def chart(folders):
    return folders["k8s-device-plugin-chart"] / "nvidia-device-plugin"


@pytest.fixture(scope="module")
def helm(bare, folders):
    """`helm("list")`: Helm's output."""
    program = [*bare.inside, folders["helm"] / "helm", f"--kubeconfig={bare.layout.kubeconfig}"]

    def helm(*arguments):
        return subprocess.run([*program, *arguments], check=True, capture_output=True, text=True).stdout

    return helm


@pytest.fixture(scope="module")
def environment(bare, folders):
    """What somebody has who has Helm and kubernetes.core."""
    peer = peer_collection(bare.layout.cache / "tests" / "peer")
    path = f"{Path(sys.executable).parent}{os.pathsep}{folders['helm']}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "ANSIBLE_COLLECTIONS_PATH": f"{ROOT / 'collections'}{os.pathsep}{peer}"}


@pytest.fixture(scope="module")
def role(bare, chart, environment):
    """`role("--check", **HELM)`: the role on a bare cluster."""

    def role(*modes, rc=0, env=environment, **variables):
        ours = {"device_plugin_expected": {NODE: GPUS}, "device_plugin_wait_timeout": 60}
        ours["device_plugin_chart"] = str(chart)
        return bare.role("device_plugin", *modes, rc=rc, env=env, **{**ours, **variables})

    yield role
    role(**HELM, device_plugin_state="absent")


@pytest.fixture(scope="module")
def busy(bare, role):
    """`busy()`: whether a pod that was given GPUs at the begin still runs."""
    role(**HELM)
    computes(bare)
    bare.kubectl("wait", "pod/computes", "-n", "default", "--for=condition=Ready", "--timeout=60s")
    begun = bare.get("pod", "computes", "-n", "default")["metadata"]["uid"]

    def busy():
        pod = bare.get("pod", "computes", "-n", "default")
        return pod["metadata"]["uid"] == begun and pod["status"]["phase"] == "Running"

    yield busy
    bare.kubectl("delete", "pod", "computes", "-n", "default", "--now")


def plugin(bare):
    return bare.get("daemonset", "nvidia-device-plugin", *SPACE)


def test_a_release_offers_gpus(bare, role, helm, chart, tmp_path):
    helm("package", str(chart), f"--destination={tmp_path}")
    helm("repo", "index", str(tmp_path))
    with bare.serving(tmp_path) as address:
        mirror = {**HELM, "device_plugin_chart": "nvidia-device-plugin", "device_plugin_chart_repository": address}
        _, counts = role("--check", "--diff", **mirror)
        assert counts["changed"] == 2  # the RuntimeClass is ours in any case
        assert not bare.kubectl("get", "daemonset,runtimeclass", *SPACE, "-o", "name")
        role(**mirror)
        (release,) = json.loads(helm("list", "--output=json", *SPACE))
        assert (release["name"], release["chart"]) == ("nvidia-device-plugin", "nvidia-device-plugin-0.20.0")
        assert allocatable(bare) == GPUS
        assert bare.get("runtimeclass", "nvidia")["handler"] == "nvidia"
        _, counts = role(**mirror)
        assert counts["changed"] == 0


@pytest.mark.slow
def test_how_the_cluster_is_reached_comes_from_the_group(bare, busy, environment, chart, tmp_path):
    variables = {**HELM, "device_plugin_chart": str(chart), "device_plugin_expected": {NODE: GPUS}}
    variables["ansible_python_interpreter"] = "{{ ansible_playbook_python }}"
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables}
    play["module_defaults"] = {"group/gpuops.nim.nim": {"kubeconfig": str(bare.layout.kubeconfig)}}
    play["roles"] = ["gpuops.nim.device_plugin"]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    nowhere = {**environment, "K8S_AUTH_KUBECONFIG": "/nonexistent", "KUBECONFIG": "/nonexistent"}
    for modes in (("--check", "--diff"), ()):
        said = bare.run("ansible-playbook", "-i", "localhost,", *modes, tmp_path / "play.yml", env=nowhere).stdout
        assert "changed=0" in said


@pytest.mark.slow
def test_sharing_and_gpu_feature_discovery_are_values_of_the_chart(bare, role, busy, until):
    _, counts = role(**HELM, device_plugin_time_slicing_replicas=3)
    assert counts["changed"] == 1
    assert allocatable(bare) == 3 * GPUS
    kind = yaml.safe_dump(crd("nfd.k8s-sigs.io", "v1alpha1", "NodeFeature", "nodefeatures", "Namespaced"))
    bare.kubectl("apply", "-f", "-", stdin=kind)
    try:
        until(lambda: "nodefeatures" in bare.kubectl("api-resources", "-o", "name"), "its kind")
        role(**HELM, device_plugin_gfd=True)
        assert allocatable(bare) == GPUS
        bare.get("daemonset", "nvidia-device-plugin-gpu-feature-discovery", *SPACE)
        assert "node-feature-discovery" not in bare.kubectl("get", "deployment,daemonset", "-A", "-o", "name")
        role(**HELM)
        assert "gpu-feature-discovery" not in bare.kubectl("get", "daemonset", *SPACE, "-o", "name")
    finally:
        bare.kubectl("delete", "-f", "-", stdin=kind)


@pytest.mark.slow
def test_a_plugin_that_fails_is_named_with_its_own_words(role, busy):
    broken = {"device_plugin_device_list_strategy": ["volume-mounts"], "device_plugin_time_slicing_replicas": 2}
    said, _ = role(**HELM, **broken, rc=2, device_plugin_wait_timeout=12)
    for words in (f"node {NODE}", "does not know volume-mounts"):
        assert words in said.replace("\n", " ")
    role(**HELM)


ASPECTS = ("runtimeClassName", "imagePullSecrets", "nodeSelector", "affinity", "tolerations", "priorityClassName")


def aspects(daemon_set):
    """What has to be the same, whoever wrote it."""
    spec = daemon_set["spec"]["template"]["spec"]
    container = next(each for each in spec["containers"] if each["command"] == ["nvidia-device-plugin"])
    paths = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    root = next(each for each in spec["volumes"] if each["name"] == paths["/driver-root"])
    found = {key: spec.get(key) or None for key in ASPECTS}
    found |= {key: container[key] for key in ("image", "securityContext")}
    return {**found, "root": root["hostPath"]["path"], "update": daemon_set["spec"]["updateStrategy"]}


@pytest.mark.slow
def test_it_moves_between_the_deliveries_and_all_else_stays_the_same(bare, role, helm, busy):
    options = {
        "device_plugin_image_pull_secrets": ["one", "another"],
        "device_plugin_tolerations": [{"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}],
        "device_plugin_node_selector": {"kubernetes.io/hostname": NODE},
        "device_plugin_mig_strategy": "single",
        "device_plugin_driver_root": "/opt",
    }
    role(**HELM, **options)
    chart = aspects(plugin(bare))
    classes = bare.get("runtimeclass", "nvidia")["metadata"]["uid"]
    _, counts = role("--check", "--diff", **options)
    assert counts["changed"] == 2
    role(**options)
    assert aspects(plugin(bare)) == chart
    assert json.loads(helm("list", "--output=json", *SPACE)) == []
    _, counts = role(**options)
    assert counts["changed"] == 0
    _, counts = role("--check", "--diff", **HELM, **options)
    assert counts["changed"] == 2
    role(**HELM, **options)
    assert allocatable(bare) == GPUS
    ours = ("-l", "app.kubernetes.io/managed-by=gpuops.nim", "-o", "name")
    assert not bare.kubectl("get", "daemonset,configmap", *SPACE, *ours)
    assert busy()
    assert bare.get("runtimeclass", "nvidia")["metadata"]["uid"] == classes
    role(**HELM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("ANSIBLE_COLLECTIONS_PATH", "needs the collection kubernetes.core"),
        ("PATH", 'Failed to find required executable "helm"'),
    ],
)
def test_what_is_missing_is_said_before_anything_changes(bare, role, busy, environment, lacks, words):
    before = plugin(bare)["metadata"]["generation"]
    less = {name: value for name, value in environment.items() if name != lacks}
    for variables in (HELM, {}, {**HELM, "device_plugin_state": "absent"}):  # to stay, to move, to go
        said, counts = role(rc=2, env=less, **variables, device_plugin_time_slicing_replicas=2)
        assert words in " ".join(said.split())
        assert counts["changed"] == 0
    assert plugin(bare)["metadata"]["generation"] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"device_plugin_namespace": "elsewhere"}, ("device_plugin_namespace: elsewhere", "second plugin")),
        (
            {"device_plugin_chart_repository": "https://me:secret@charts.example.com"},
            ("device_plugin_chart_repository", "list of processes"),
        ),
        ({"device_plugin_gfd": True}, ("device_plugin_gfd", "Node Feature Discovery")),
    ],
)
def test_what_can_not_be_is_refused(role, busy, variables, words):
    said, counts = role(rc=2, **HELM, **variables)
    for word in words:
        assert word in " ".join(said.split())
    assert counts["changed"] == 0


@pytest.mark.slow
def test_it_goes_without_taking_a_running_pod(bare, role, helm, busy, until):
    _, counts = role("--check", **HELM, device_plugin_state="absent")
    assert counts["changed"] == 2
    role(**HELM, device_plugin_state="absent")
    until(lambda: not allocatable(bare), "the kubelet to see that the plugin is gone", 90)
    assert json.loads(helm("list", "--output=json", *SPACE)) == []
    assert not bare.kubectl("get", "runtimeclass", "-o", "name")
    assert busy()
    _, counts = role(**HELM, device_plugin_state="absent")
    assert counts["changed"] == 0


def test_a_release_of_somebody_else_is_left_alone(bare, role, helm, chart):
    role(**HELM, device_plugin_state="absent")
    values = ('--set-json=nodeSelector={"no":"node"}', "--create-namespace", *SPACE)
    helm("install", "nvidia-device-plugin", str(chart), *values)
    try:
        for delivery in (HELM, {}):
            for state in ("present", "absent"):
                said, counts = role(**delivery, device_plugin_state=state)
                assert counts["changed"] == 0
                assert "other offers the GPUs of this cluster" in " ".join(said.split())
        # one that offers nothing, but is called as ours would be
        helm("upgrade", "nvidia-device-plugin", str(chart), *values[:1], "--set=devicePlugin.enabled=false", *SPACE)
        said, counts = role(**HELM, rc=2)
        assert "is not this role's" in " ".join(said.split())
        assert counts["changed"] == 0
    finally:
        helm("uninstall", "nvidia-device-plugin", "--wait", *SPACE)
