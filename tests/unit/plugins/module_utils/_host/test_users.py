# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Tree

UID = "4d4cd5ae-6f4f-4c7c-9c86-40d0b1e1a0bb"
SLICE = UID.replace("-", "_")
ID = "5a3c1f0e9b7d24684c1d8fd8e2a04bb8a9b2f0f4b3f9c1d2e3f4a5b6c7d8e9f0"
OUTER = "f" * 64
HASH = "0123456789abcdef0123456789abcdef"
CGROUPS = {
    "systemd": (f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope\n", UID, ID),
    "burstable": (
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/crio-{ID}.scope\n",
        UID,
        ID,
    ),
    "cgroupfs": (f"0::/kubepods/besteffort/pod{UID}/{ID}\n", UID, ID),
    "version 1": (
        f"12:pids:/kubepods/burstable/pod{UID}/{ID}\n4:devices:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/\n",
        UID,
        ID,
    ),
    "static pod": (f"0::/kubepods.slice/kubepods-pod{HASH}.slice/cri-containerd-{ID}.scope\n", HASH, ID),
    "in kind": (f"0::/docker/{OUTER}/kubelet/kubepods/pod{UID}/{ID}\n", UID, ID),
    "docker": (f"0::/system.slice/docker-{ID}.scope\n", None, ID),
    "scope below": (f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope/init\n", UID, ID),
    "host": ("0::/system.slice/nvidia-persistenced.service\n", None, None),
    "unknown": ("", None, None),
}


@pytest.mark.parametrize("name", CGROUPS)
def test_whose_process_it_is(tree, name):
    cgroup, pod, container = CGROUPS[name]
    tree.loaded("580.159.04")
    tree.process(48211, "python3", cgroup, "/dev/null", "/dev/nvidia0", "socket:[123]")
    assert tree.facts("users") == {
        "users": [
            {"pid": 48211, "command": "python3", "pod_uid": pod, "container_id": container, "device": "/dev/nvidia0"}
        ],
        "problems": [],
    }


def test_each_device_once_for_each_process(tree):
    tree.loaded("580.159.04")
    tree.process(9, "nvidia-persiste", "0::/\n", "/dev/nvidia1", "/dev/nvidia0", "/dev/nvidia0")
    tree.process(100, "python3", "0::/\n", "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidiactl")
    tree.process(101, "bash", "0::/\n", "/dev/pts/0", "/home/me/dev/nvidia0")
    found = [(user["pid"], user["device"]) for user in tree.facts("users")["users"]]
    assert found == [
        (9, "/dev/nvidia0"),
        (9, "/dev/nvidia1"),
        (100, "/dev/nvidia-caps/nvidia-cap12"),
        (100, "/dev/nvidiactl"),
    ]


def test_a_name_in_other_bytes(tree):
    tree.loaded("580.159.04")
    tree.process(9, "x", "0::/\n", "/dev/nvidia0")
    tree.file("/proc/9/comm", b"mod\xe8le\n")
    assert tree.facts("users")["users"][0]["command"] == "mod\ufffdle"


def test_nobody_without_a_driver(tree):
    tree.process(9, "python3", "0::/\n", "/dev/nvidia0")
    assert tree.facts("users")["users"] == []


def test_processes_that_may_not_be_looked_at():
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        tree = Tree(folder)
        tree.loaded("580.159.04")
        tree.process(9, "python3", "0::/\n", "/dev/nvidia0")
        tree.process(10, "mine", "0::/\n", "/dev/nvidia0")
        (folder / "proc/9/fd").chmod(0)
        with somebody():
            host = tree.facts("users")
        assert [user["pid"] for user in host["users"]] == [10]
        assert host["problems"] == [
            {"what": "users", "why": "1 processes of other users can't be looked at. Run with become."}
        ]
    finally:
        shutil.rmtree(folder)


@contextmanager
def somebody():
    """Not root, for whom every folder is open."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
