# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json

import pytest

CONFIG = "/etc/docker/daemon.json"


def docker(tree, version="28.5.1-1", **config):
    tree.file("/usr/bin/dockerd")
    tree.dpkg({"docker-ce": f"5:{version}~ubuntu.24.04~noble"})
    if config:
        tree.file(CONFIG, json.dumps(config))
    (found,) = tree.facts("runtimes")["runtimes"]
    return found


def test_without_a_configuration(tree):
    tree.file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu\n")
    assert docker(tree, "27.5.1-1") == {
        "name": "docker",
        "flavour": "plain",
        "version": "27.5.1",
        "config": None,
        "config_version": None,
        "default_runtime": "runc",
        "nvidia_handler": False,
        "cdi": False,
        "systemd_cgroup": True,
        "imports": [],
        "problems": [],
    }


def test_configured_by_the_toolkit(tree):
    runtime = {"args": [], "path": "nvidia-container-runtime"}
    options = {"exec-opts": ["native.cgroupdriver=cgroupfs"], "features": {"cdi": True}}
    found = docker(tree, **{"default-runtime": "nvidia", "runtimes": {"nvidia": runtime}}, **options)
    assert (found["default_runtime"], found["nvidia_handler"], found["cdi"]) == ("nvidia", True, True)
    assert found["systemd_cgroup"] is False


@pytest.mark.parametrize("text", ['{"runtimes": ', "[]", "no json"])
def test_a_broken_configuration(tree, text):
    tree.file(CONFIG, text)
    found = docker(tree)
    assert (found["default_runtime"], found["nvidia_handler"], found["systemd_cgroup"]) == (None, False, None)
    assert found["problems"][0].startswith(CONFIG)
