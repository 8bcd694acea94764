# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

NVIDIA = """\
[crio]

  [crio.runtime]
    default_runtime = "nvidia"

    [crio.runtime.runtimes]

      [crio.runtime.runtimes.nvidia]
        runtime_path = "/usr/bin/nvidia-container-runtime"
        runtime_type = "oci"
"""


def crio(tree, version=None):
    tree.file("/usr/bin/crio")
    if version:
        tree.rpm({"cri-o": version})
    (found,) = tree.facts("runtimes")["runtimes"]
    return found


def test_plain(tree):
    tree.file("/etc/crio/crio.conf", '[crio.runtime]\ncgroup_manager = "cgroupfs"\n')
    assert crio(tree, "1.34.2-1.el9") == {
        "name": "crio",
        "flavour": "plain",
        "version": "1.34.2",
        "config": "/etc/crio/crio.conf",
        "config_version": None,
        "default_runtime": "crun",
        "nvidia_handler": False,
        "cdi": True,
        "systemd_cgroup": False,
        "imports": [],
        "problems": [],
    }


def test_the_toolkits_drop_in(tree):
    tree.file("/etc/crio/crio.conf.d/10-crio.conf", '[crio.runtime]\ndefault_runtime = "crun"\n')
    tree.file("/etc/crio/crio.conf.d/99-nvidia.toml", NVIDIA)
    tree.file("/etc/crio/crio.conf.d/99-own.conf", "[crio.runtime]\npids_limit = 0\n")
    found = crio(tree)
    assert (found["nvidia_handler"], found["default_runtime"], found["systemd_cgroup"]) == (True, "nvidia", True)
    assert found["imports"] == [
        f"/etc/crio/crio.conf.d/{name}" for name in ("10-crio.conf", "99-nvidia.toml", "99-own.conf")
    ]
    assert found["config"] is None


def test_a_drop_in_where_cri_o_does_not_look(tree):
    tree.file("/etc/crio/conf.d/99-nvidia.toml", NVIDIA)
    found = crio(tree, "1.30.0-1")
    assert (found["nvidia_handler"], found["default_runtime"]) == (False, "runc")
    assert "is not read" in found["problems"][0]


def test_a_file_that_is_no_toml(tree):
    tree.file("/etc/crio/crio.conf.d/99-nvidia.toml", NVIDIA)
    tree.file("/etc/crio/crio.conf", "[crio.runtime\n")
    found = crio(tree)
    assert (found["nvidia_handler"], found["default_runtime"], found["systemd_cgroup"]) == (True, None, None)
    assert found["problems"][0].startswith("/etc/crio/crio.conf can't be read")
