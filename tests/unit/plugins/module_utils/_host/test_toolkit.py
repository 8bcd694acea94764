# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DEB = {
    "nvidia-container-toolkit": "1.20.0-1",
    "nvidia-container-toolkit-base": "1.20.0-1",
    "libnvidia-container-tools": "1.20.0-1",
    "libnvidia-container1": "1.20.0-1",
}


def toolkit(tree):
    return tree.facts("toolkit")["toolkit"]


def test_none(tree):
    tree.dpkg({"nvidia-smi": "535.261.03-1~deb12u1"})
    assert toolkit(tree) is None


def test_packages_of_dpkg(tree):
    tree.dpkg({**DEB, "bash": "5.2-1"})
    assert toolkit(tree) == {"version": "1.20.0", "packages": DEB}


def test_packages_of_rpm(tree):
    tree.rpm(DEB)
    assert toolkit(tree) == {"version": "1.20.0", "packages": DEB}


def test_the_base_package_is_enough(tree):
    tree.dpkg({"nvidia-container-toolkit-base": "1.18.1-1"})
    assert toolkit(tree)["version"] == "1.18.1"


def test_a_package_from_before_the_base_package(tree):
    tree.dpkg({"nvidia-container-toolkit": "1.10.0-1"})
    assert toolkit(tree)["version"] == "1.10.0"


def test_a_binary_of_the_gpu_operator_is_asked(tree):
    tree.file("/usr/local/nvidia/toolkit/nvidia-ctk")
    assert toolkit(tree) == {"version": None, "packages": {}}
    tree.printed["/usr/local/nvidia/toolkit/nvidia-ctk"] = "NVIDIA Container Toolkit CLI version 1.19.1\ncommit: abc\n"
    assert toolkit(tree) == {"version": "1.19.1", "packages": {}}
