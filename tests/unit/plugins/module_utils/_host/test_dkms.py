# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

RUNNING, NEXT = "6.1.0-9-amd64", "6.1.0-28-amd64"


def states(tree):
    return {(entry["kernel"], entry["version"]): entry["state"] for entry in tree.facts("driver")["driver"]["dkms"]}


def test_installed_for_both_kernels(tree):
    tree.kernel(RUNNING, RUNNING, NEXT)
    tree.dkms("nvidia", "580.159.04", installed=[RUNNING, NEXT])
    assert tree.facts("driver")["driver"]["dkms"] == [
        {"module": "nvidia", "version": "580.159.04", "kernel": NEXT, "state": "installed"},
        {"module": "nvidia", "version": "580.159.04", "kernel": RUNNING, "state": "installed"},
    ]


def test_not_built_for_the_next_kernel(tree):
    """Debian's silent failure: without headers apt and dpkg are content."""
    tree.kernel(RUNNING, RUNNING, NEXT)
    tree.dkms("nvidia-current", "550.163.01", installed=[RUNNING])
    assert states(tree) == {(RUNNING, "550.163.01"): "installed", (NEXT, "550.163.01"): "added"}


def test_built_and_not_installed(tree):
    tree.kernel(RUNNING, RUNNING)
    tree.dkms("nvidia", "580.159.04", RUNNING)
    assert states(tree) == {(RUNNING, "580.159.04"): "built"}


def test_an_older_version_that_is_still_installed(tree):
    tree.kernel(RUNNING, RUNNING)
    tree.dkms("nvidia", "580.159.04", installed=[RUNNING])
    tree.dkms("nvidia", "580.95.05", RUNNING)
    assert states(tree) == {(RUNNING, "580.159.04"): "installed", (RUNNING, "580.95.05"): "built"}


def test_sources_that_are_gone(tree):
    tree.kernel(RUNNING, RUNNING)
    tree.link("/var/lib/dkms/nvidia/580.159.04/source", "/usr/src/nvidia-580.159.04")
    assert states(tree) == {(RUNNING, "580.159.04"): "broken"}


def test_a_module_that_el_links_from_another_kernel(tree):
    tree.kernel(RUNNING, RUNNING, NEXT)
    tree.dkms("nvidia-open", "580.159.04", installed=[RUNNING])
    tree.link(f"/lib/modules/{NEXT}/weak-updates/nvidia.ko.xz", f"/lib/modules/{RUNNING}/extra/nvidia.ko.xz")
    assert states(tree)[NEXT, "580.159.04"] == "installed-weak"


def test_other_modules_do_not_count(tree):
    tree.kernel(RUNNING, RUNNING)
    tree.dkms("nvidia-fs", "2.26.6", installed=[RUNNING])
    tree.dkms("zfs", "2.3.2", installed=[RUNNING])
    assert states(tree) == {}


def test_without_any_kernel(tree):
    tree.dkms("nvidia", "580.159.04")
    assert states(tree) == {(None, "580.159.04"): "added"}


def test_the_flavour_is_in_dkmss_name(tree):
    tree.dkms("nvidia-open", "580.159.04")
    found = tree.facts("driver")["driver"]["installed"]
    assert found == {"version": "580.159.04", "flavour": "open", "method": "unknown"}
