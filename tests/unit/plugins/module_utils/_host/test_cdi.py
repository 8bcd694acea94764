# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host import facts

RECORDED = (Path(__file__).parent / "systems" / "nvidia-cdi.yaml.recorded").read_text()
SPEC = "/run/cdi/nvidia.yaml"
MIG = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: "0:0"
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia-caps/nvidia-cap12
  - name: "0:1"
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia-caps/nvidia-cap21
"""


def cdi(tree):
    host = tree.facts("cdi")
    assert host["problems"] == []
    return host["cdi"]


def test_none(tree):
    tree.folder("/etc/cdi")
    assert cdi(tree) == {"specs": [], "stale": False}


def test_of_the_toolkit(tree):
    tree.link("/var/run", "/run")
    tree.file(SPEC, RECORDED)
    tree.loaded("580.159.04")
    assert cdi(tree) == {
        "specs": [
            {
                "path": SPEC,
                "kind": "nvidia.com/gpu",
                "devices": ["0", "GPU-00000000-1111-2222-3333-444444444444", "all"],
                "driver_version": "580.159.04",
                "stale": False,
            }
        ],
        "stale": False,
    }


def test_one_file_counts_once_on_the_machine_itself(tmp_path, monkeypatch):
    (tmp_path / "run/cdi").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to(tmp_path / "run")
    (tmp_path / "run/cdi/nvidia.yaml").write_text(RECORDED)
    monkeypatch.setattr(
        "ansible_collections.gpuops.nim.plugins.module_utils._host.cdi.FOLDERS",
        tuple(f"{tmp_path}{folder}" for folder in ("/run/cdi", "/var/run/cdi")),
    )
    assert len(facts.gather("/", ["cdi"])["cdi"]["specs"]) == 1


def test_stale_after_an_upgrade(tree):
    tree.file(SPEC, RECORDED)
    tree.loaded("580.159.04")
    tree.file("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.178.04")
    assert cdi(tree)["stale"] is True


def test_each_is_stale_for_itself(tree):
    tree.file(SPEC, RECORDED.replace("580.159.04", "580.178.04"))
    tree.file("/run/cdi/k8s.device-plugin.nvidia.com-gpu.yaml", RECORDED.replace("kind: ", "kind: k8s.device-plugin."))
    tree.loaded("580.159.04")
    tree.file("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.178.04")
    found = cdi(tree)
    assert {spec["kind"]: spec["stale"] for spec in found["specs"]} == {
        "nvidia.com/gpu": False,
        "k8s.device-plugin.nvidia.com/gpu": True,
    }
    assert found["stale"] is True


def test_stale_after_the_driver_was_removed(tree):
    tree.file(SPEC, RECORDED)
    assert cdi(tree)["stale"] is True


def test_mig_devices_in_the_other_style_of_lists(tree):
    tree.file("/etc/cdi/nvidia.yaml", MIG)
    (spec,) = cdi(tree)["specs"]
    assert (spec["devices"], spec["driver_version"]) == (["0:0", "0:1"], None)


# gi: of the GPU instance, ci: of the compute instance in it
@pytest.mark.parametrize(
    ("now", "stale"),
    [
        ({"gi1": 12, "gi1/ci0": 13}, False),
        ({"gi1": 12, "gi1/ci0": 13, "gi2": 21, "gi2/ci0": 22}, True),
        ({"gi2": 21, "gi2/ci0": 22}, True),
        ({}, True),
    ],
)
def test_stale_when_partitions_have_changed(tree, now, stale):
    caps = "".join(f"        - path: /dev/nvidia-caps/nvidia-cap{minor}\n" for minor in (12, 13))
    text = f'kind: nvidia.com/gpu\ndevices:\n  - name: "0:0"\n    containerEdits:\n      deviceNodes:\n{caps}'
    tree.file("/etc/cdi/nvidia.yaml", text)
    tree.file("/etc/cdi/plugin.yaml", text.replace("kind: ", "kind: k8s.device-plugin."))
    cards = "/proc/driver/nvidia/capabilities"
    tree.file(f"{cards}/mig/config", "DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n")
    for name, minor in now.items():
        tree.file(f"{cards}/gpu0/mig/{name}/access", f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\n")
    assert {spec["path"]: spec["stale"] for spec in cdi(tree)["specs"]} == {
        "/etc/cdi/nvidia.yaml": stale,
        "/etc/cdi/plugin.yaml": False,
    }


def test_json_and_other_vendors(tree):
    spec = {"cdiVersion": "0.5.0", "kind": "management.nvidia.com/gpu", "devices": [{"name": "all"}]}
    tree.file("/etc/cdi/management.nvidia.com-gpu.json", json.dumps(spec))
    tree.file("/etc/cdi/other.json", json.dumps({**spec, "kind": "vendor.example/net"}))
    assert [(spec["kind"], spec["devices"]) for spec in cdi(tree)["specs"]] == [("management.nvidia.com/gpu", ["all"])]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.yaml", ""),
        ("cut.yaml", RECORDED[: RECORDED.index('  name: "0"')] + "kind: nvidia.com/gpu\n"),
        ("flow.yaml", "kind: nvidia.com/gpu\ndevices: [{name: all}]\n"),
        ("cut.json", '{"kind": "nvidia.com/gpu", "devices": ['),
        ("list.json", '{"kind": "nvidia.com/gpu", "devices": ["all"]}'),
    ],
)
def test_a_broken_one_is_a_problem_beside_the_good_one(tree, name, content):
    tree.file(SPEC, RECORDED)
    tree.file(f"/etc/cdi/{name}", content)
    host = tree.facts("cdi")
    assert [spec["path"] for spec in host["cdi"]["specs"]] == [SPEC]
    assert [problem["what"] for problem in host["problems"]] == [f"/etc/cdi/{name}"]
