# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

OTHER = {
    "debian-12": ("debian", [], "12", None),
    "debian-13": ("debian", [], "13", None),
    "ubuntu-22.04": ("ubuntu", ["debian"], "22.04", None),
    "ubuntu-24.04": ("ubuntu", ["debian"], "24.04", None),
    "ubuntu-26.04": ("ubuntu", ["debian"], "26.04", None),
    "rocky-8": ("rocky", ["rhel", "centos", "fedora"], "8.10", "platform:el8"),
    "almalinux-9": ("almalinux", ["rhel", "centos", "fedora"], "9.6", "platform:el9"),
    "rhel-9": ("rhel", ["fedora"], "9.7", "platform:el9"),
    "rocky-10": ("rocky", ["rhel", "centos", "fedora"], "10.1", "platform:el10"),
    "alinux-3": ("alinux", ["rhel", "fedora", "centos", "anolis"], "3", "platform:al8"),
    "amzn-2023": ("amzn", ["fedora"], "2023", "platform:al2023"),
    "sles-15.6": ("sles", ["suse"], "15.6", None),
}


@pytest.mark.parametrize("system", OTHER)
def test_systems(tree, system):
    tree.system(system)
    tree.file("/proc/sys/kernel/arch", "aarch64\n")
    host = tree.facts("os")
    found = host["os"]
    assert (found["id"], found["id_like"], found["version"], found["platform_id"]) == OTHER[system]
    assert found["arch"] == "aarch64"
    assert found["name"].startswith(("Debian", "Ubuntu", "Rocky", "Alma", "Red Hat", "Alibaba", "Amazon", "SUSE"))
    assert host["problems"] == []


def test_without_os_release(tree):
    tree.folder("/etc")
    host = tree.facts("os")
    assert host["os"]["id"] is None
    assert host["problems"][0]["what"] == "/etc/os-release"


def test_a_line_with_an_open_quote_costs_that_line_alone(tree):
    tree.file("/etc/os-release", 'ID=debian\nPRETTY_NAME="Debian\nVERSION_ID="12"\n')
    host = tree.facts("os")
    assert (host["os"]["id"], host["os"]["version"], host["os"]["name"]) == ("debian", "12", None)
    assert "PRETTY_NAME" in host["problems"][0]["why"]
