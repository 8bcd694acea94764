# SPDX-License-Identifier: GPL-3.0-or-later
"""The role dcgm_exporter: the series of its pod are answered at its Service, and name the pod that has a GPU."""

from __future__ import annotations

import re

import pytest
import yaml

from rehearsal.layout import GPUS, NODE
from tests.e2e import test_device_plugin

pytestmark = pytest.mark.bare

SPACE = "dcgm-exporter"
SERIES = f"/api/v1/namespaces/{SPACE}/services/dcgm-exporter:metrics/proxy/metrics"
OWN = [{"field": "DCGM_FI_DEV_GPU_UTIL", "help": 'Of time, "busy"'}]


@pytest.fixture(scope="module")
def role(bare):
    """`role("--check", dcgm_exporter_profiling=True)`: the role on a bare cluster that has the device plugin."""

    def role(*modes, rc=0, **variables):
        ours = {"dcgm_exporter_nodes": [NODE], "dcgm_exporter_wait_timeout": 90}
        said, counts = bare.role("dcgm_exporter", *modes, rc=rc, **{**ours, **variables})
        return " ".join(said.split()), counts

    expected = {"device_plugin_expected": {NODE: GPUS}}
    bare.role("device_plugin", **expected)
    yield role
    role(dcgm_exporter_state="absent")
    bare.role("device_plugin", device_plugin_state="absent", **expected)
    bare.kubectl("delete", "namespace", SPACE, "--ignore-not-found")


@pytest.fixture(scope="module")
def computes(bare, role):
    """A pod that has two of the GPUs."""
    test_device_plugin.computes(bare)
    bare.kubectl("wait", "pod/computes", "-n", "default", "--for=condition=Ready", "--timeout=60s")
    yield
    bare.kubectl("delete", "pod", "computes", "-n", "default", "--now")


@pytest.fixture
def scrape(bare):
    """`scrape()`: field: the labels of its series, as Prometheus gets them through the Service."""

    def scrape():
        found = {}
        for field, labels in re.findall(r"^(\w+)\{(.*)\} ", bare.kubectl("get", "--raw", SERIES), re.M):
            found.setdefault(field, []).append(dict(re.findall(r'(\w+)="([^"]*)"', labels)))
        return found

    return scrape


def pod_of(bare):
    pods = bare.get("pods", "-n", SPACE)["items"]
    (pod,) = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return pod["spec"]


def capabilities(bare):
    return pod_of(bare)["containers"][0]["securityContext"]["capabilities"]


@pytest.fixture(scope="module")
def labelled(bare, computes):
    """The node is as GPU Feature Discovery labels it and its owners taint it."""
    bare.kubectl("label", "node", NODE, "nvidia.com/gpu.present=true")
    bare.kubectl("taint", "node", NODE, "nvidia.com/gpu=present:NoSchedule")
    yield
    bare.kubectl("label", "node", NODE, "nvidia.com/gpu.present-")
    bare.kubectl("taint", "node", NODE, "nvidia.com/gpu-")


@pytest.mark.usefixtures("labelled")
def test_series_name_the_pod_that_has_a_gpu(bare, role, scrape):
    said, counts = role("--check", "--diff", dcgm_exporter_nodes=[])
    assert counts["changed"] == 1
    assert "DCGM_FI_DEV_FB_USED" in said
    assert SPACE not in bare.kubectl("get", "namespaces", "-o", "name")

    role(dcgm_exporter_nodes=[])
    found = scrape()
    assert {"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_XID_ERRORS"} <= found.keys()
    assert not [field for field in found if "_PROF_" in field]
    series = found["DCGM_FI_DEV_GPU_UTIL"]
    assert [(each["gpu"], each["Hostname"]) for each in series] == [(str(gpu), NODE) for gpu in range(GPUS)]
    owners = [(each["namespace"], each["pod"], each["container"]) for each in series if "pod" in each]
    assert owners == [("default", "computes", "main")] * 2

    for modes in ((), ("--check", "--diff")):
        _, counts = role(*modes, dcgm_exporter_nodes=[])
        assert counts["changed"] == 0


def test_it_asks_for_no_more_than_it_needs_and_is_where_the_label_is(bare, role, until):
    pod = pod_of(bare)
    assert pod["runtimeClassName"] == "nvidia"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert capabilities(bare) == {"drop": ["ALL"]}
    bare.kubectl("label", "node", NODE, "nvidia.com/gpu.present-")
    until(lambda: not bare.get("pods", "-n", SPACE)["items"], "its pod to leave a node that has no label")


def test_profiling_gives_the_capability_and_its_series_and_only_then(bare, role, scrape):
    role(dcgm_exporter_profiling=True)
    assert capabilities(bare) == {"add": ["SYS_ADMIN"], "drop": ["ALL"]}
    assert {"DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_DEV_FB_USED"} <= scrape().keys()
    role(dcgm_exporter_counters=OWN)
    assert capabilities(bare) == {"drop": ["ALL"]}
    assert scrape().keys() == {OWN[0]["field"]}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"dcgm_exporter_nodes": [NODE, "gpu-9"]}, ("1 of 2 nodes", "gpu-9")),
        ({"dcgm_exporter_version": "0.0.1"}, (f"on node {NODE}", "dcgm-exporter:0.0.1: not found")),
        ({"dcgm_exporter_counters": [{"field": "DCGM_NO_SUCH"}]}, (f"on node {NODE}", "unknown", "DCGM_NO_SUCH")),
        # a node that has not got NVIDIA's handler
        ({"dcgm_exporter_runtime_class": "other"}, (f"on node {NODE}", 'no runtime for "other" is configured')),
    ],
)
def test_what_does_not_come_up_is_named_with_the_reason(bare, role, variables, words):
    other = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "other"}, "handler": "other"}
    bare.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(other))
    said, _ = role(rc=2, dcgm_exporter_wait_timeout=5, **variables)
    bare.kubectl("delete", "runtimeclass", "other")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"dcgm_exporter_counters": [{"field": "DCGM_FI_PROF_SM_ACTIVE"}]},
            ("DCGM_FI_PROF_", "dcgm_exporter_profiling"),
        ),
        ({"dcgm_exporter_runtime_class": "none"}, ("no RuntimeClass none", "device_plugin")),
        ({"dcgm_exporter_service_monitor": True}, ("ServiceMonitor", "Prometheus operator")),
        ({"dcgm_exporter_counters": [{"field": "DCGM_FI_DEV_GPU_UTIL", "type": "number"}]}, ("type", "number")),
    ],
)
def test_what_can_not_be_is_refused_before_anything_changes(bare, role, variables, words):
    what = ("daemonset", "dcgm-exporter", "-n", SPACE)
    before = bare.get(*what)["metadata"]["generation"]
    said, _ = role(rc=2, **variables)
    for word in words:
        assert word in said
    assert bare.get(*what)["metadata"]["generation"] == before


def test_a_service_monitor_comes_where_it_is_known_and_goes_when_unwanted(bare, role, optional_part, until):
    files = [f"--filename={path}" for path in optional_part("monitoring").glob("*servicemonitors.yaml")]
    bare.kubectl("apply", "--server-side", *files)
    try:
        until(lambda: "servicemonitors" in bare.kubectl("api-resources", "-o", "name"), "its kind")
        wanted = {"dcgm_exporter_service_monitor": True, "dcgm_exporter_service_monitor_labels": {"release": "x"}}
        role(**wanted)
        monitor = bare.get("servicemonitor", "dcgm-exporter", "-n", SPACE)
        assert monitor["metadata"]["labels"]["release"] == "x"
        service = bare.get("service", "dcgm-exporter", "-n", SPACE)
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
        assert role(**wanted)[1]["changed"] == 0
        assert role()[1]["changed"] == 1
        assert not bare.kubectl("get", "servicemonitors", "-n", SPACE, "-o", "name")
    finally:
        bare.kubectl("delete", *files)


def test_it_goes_with_all_that_it_made(bare, role):
    said, counts = role(dcgm_exporter_namespace="elsewhere")
    assert f"gpuops.nim exports the metrics of the GPUs here (DaemonSet {SPACE}/dcgm-exporter)" in said
    assert counts["changed"] == 0
    role(dcgm_exporter_state="absent")
    left = bare.kubectl("get", "daemonset,pod,service,configmap", "-n", SPACE, "-o", "name").split()
    assert left == ["configmap/kube-root-ca.crt"]
    assert role(dcgm_exporter_state="absent")[1]["changed"] == 0


def test_there_are_never_two(bare, role):
    labels = {"name": "gpu-metrics"}
    containers = [{"name": "main", "image": "registry.example.com/dcgm-exporter:1"}]
    pod = {"metadata": {"labels": labels}, "spec": {"containers": containers, "nodeSelector": {"no": "node"}}}
    theirs = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "gpu-metrics", "namespace": "default"}}
    theirs["spec"] = {"selector": {"matchLabels": labels}, "template": pod}
    bare.kubectl("create", "-f", "-", stdin=yaml.safe_dump(theirs))
    try:
        for state in ("present", "absent"):
            said, counts = role(dcgm_exporter_state=state)
            assert counts["changed"] == 0
            assert "other exports the metrics of the GPUs here (DaemonSet default/gpu-metrics)" in said
        assert not bare.kubectl("get", "daemonset", "-n", SPACE, "-o", "name")
    finally:
        bare.kubectl("delete", "daemonset", "gpu-metrics", "-n", "default")
