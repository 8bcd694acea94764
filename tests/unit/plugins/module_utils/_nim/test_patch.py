# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
from __future__ import annotations

import copy

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim.patch import PatchError, merge

BASE = {
    "containers": [
        {
            "name": "kserve-container",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"name": "http", "containerPort": 8000}],
            "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],
        }
    ],
    "volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory"}}],
    "nodeSelector": {"a": "1", "b": "2"},
    "tolerations": [{"key": "x"}],
    "terminationGracePeriodSeconds": 60,
}


def in_container(**fields):
    return {"containers": [{"name": "kserve-container", **fields}]}


CASES = {
    "a field": ({"priorityClassName": "high"}, lambda p: p["priorityClassName"] == "high"),
    "a field replaced": ({"terminationGracePeriodSeconds": 5}, lambda p: p["terminationGracePeriodSeconds"] == 5),
    "a field removed": ({"nodeSelector": {"a": None}}, lambda p: p["nodeSelector"] == {"b": "2"}),
    "a map replaced": (
        {"nodeSelector": {"$patch": "replace", "c": "3"}},
        lambda p: p["nodeSelector"] == {"c": "3"},
    ),
    "a variable added": (
        in_container(env=[{"name": "C", "value": "3"}]),
        lambda p: [e["name"] for e in p["containers"][0]["env"]] == ["A", "B", "C"],
    ),
    "a variable changed": (
        in_container(env=[{"name": "A", "value": "9"}]),
        lambda p: p["containers"][0]["env"] == [{"name": "A", "value": "9"}, {"name": "B", "value": "2"}],
    ),
    "a variable deleted": (
        in_container(env=[{"name": "A", "$patch": "delete"}]),
        lambda p: [e["name"] for e in p["containers"][0]["env"]] == ["B"],
    ),
    "all variables replaced": (
        in_container(env=[{"$patch": "replace"}, {"name": "C", "value": "3"}]),
        lambda p: [e["name"] for e in p["containers"][0]["env"]] == ["C"],
    ),
    "a port by its number": (
        in_container(ports=[{"containerPort": 8000, "name": "api"}]),
        lambda p: p["containers"][0]["ports"] == [{"name": "api", "containerPort": 8000}],
    ),
    "a mount by its path": (
        in_container(volumeMounts=[{"mountPath": "/dev/shm", "name": "other"}]),
        lambda p: p["containers"][0]["volumeMounts"] == [{"name": "other", "mountPath": "/dev/shm"}],
    ),
    "a second container": (
        {"containers": [{"name": "side", "image": "x"}]},
        lambda p: [c["name"] for c in p["containers"]] == ["kserve-container", "side"],
    ),
    "a volume of another source": (
        {"volumes": [{"name": "dshm", "hostPath": {"path": "/x"}}]},
        lambda p: p["volumes"] == [{"name": "dshm", "hostPath": {"path": "/x"}}],
    ),
    "a volume's size": (
        {"volumes": [{"name": "dshm", "emptyDir": {"sizeLimit": "1Gi"}}]},
        lambda p: p["volumes"] == [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
    ),
    "tolerations as a whole": ({"tolerations": [{"key": "y"}]}, lambda p: p["tolerations"] == [{"key": "y"}]),
    "the last item": ({"volumes": [{"name": "dshm", "$patch": "delete"}]}, lambda p: "volumes" not in p),
}


@pytest.mark.parametrize("case", CASES)
def test_merge(case):
    patch, holds = CASES[case]
    before = copy.deepcopy(BASE)
    assert holds(merge(BASE, patch))
    assert before == BASE


BAD = [
    ({"containers": [{"image": "x"}]}, r"containers\[0\]: needs 'name'.*kserve-container"),
    ({"containers": ["x"]}, r"containers\[0\]: must be a dictionary"),
    (in_container(ports=[{"name": "x"}]), r"containers\[0\].ports\[0\]: needs 'containerPort'"),
    ({"nodeSelector": {"$patch": "merge-all"}}, r"nodeSelector: '\$patch: merge-all' is not known"),
    ({"$retainKeys": ["x"]}, r"\$retainKeys: this directive"),
]


@pytest.mark.parametrize(("patch", "message"), BAD)
def test_bad_patches_name_the_place(patch, message):
    with pytest.raises(PatchError, match=message):
        merge({}, patch)


def test_another_handler_takes_the_place_of_ours():
    """An object with two is refused by Kubernetes."""
    base = {"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}, "readinessProbe": {"httpGet": {}, "periodSeconds": 2}}
    ours = merge(base, {"lifecycle": {"preStop": {"exec": {"command": ["a"]}}}, "readinessProbe": {"tcpSocket": {}}})
    assert ours["lifecycle"] == {"preStop": {"exec": {"command": ["a"]}}}
    assert ours["readinessProbe"] == {"tcpSocket": {}, "periodSeconds": 2}
    assert merge(base, {"readinessProbe": {"exec": None}}) == base
