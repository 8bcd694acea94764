# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest


def blacklisted(tree):
    return tree.facts("nouveau")["nouveau"]["blacklisted"]


@pytest.mark.parametrize(
    "line", ["blacklist nouveau", "install nouveau /bin/false", "  blacklist   nouveau  # for the GPUs"]
)
@pytest.mark.parametrize("folder", ["/etc/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"])
def test_by_a_file(tree, folder, line):
    tree.file(f"{folder}/nvidia.conf", f"# a comment\n{line}\noptions nouveau modeset=0\n")
    assert blacklisted(tree) is True


@pytest.mark.parametrize("line", ["#blacklist nouveau", "blacklist nouveaux", "options nouveau modeset=0"])
def test_what_blacklists_nothing(tree, line):
    tree.file("/etc/modprobe.d/nvidia.conf", f"{line}\n")
    assert blacklisted(tree) is False


def test_a_file_of_another_kind_is_not_read(tree):
    tree.file("/etc/modprobe.d/nvidia.conf.bak", "blacklist nouveau\n")
    assert blacklisted(tree) is False


def test_an_empty_file_in_etc_hides_the_packaged_one(tree):
    tree.file("/usr/lib/modprobe.d/nvidia-graphics-drivers.conf", "blacklist nouveau\n")
    tree.link("/etc/modprobe.d/nvidia-graphics-drivers.conf", "/dev/null")
    assert blacklisted(tree) is False


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quiet modprobe.blacklist=nouveau", True),
        ("rd.driver.blacklist=nova_core,nouveau quiet", True),
        ("module_blacklist=pcspkr", False),
        ("nouveau.modeset=0", False),
    ],
)
def test_by_the_kernels_command_line(tree, line, expected):
    tree.file("/proc/cmdline", f"BOOT_IMAGE=/vmlinuz ro {line}\n")
    assert blacklisted(tree) is expected
