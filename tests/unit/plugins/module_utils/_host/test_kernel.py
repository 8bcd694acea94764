# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host import kernel


def test_the_newest_installed_kernel_is_next(tree):
    tree.kernel("6.1.0-9-amd64", "6.1.0-9-amd64", "6.1.0-28-amd64", "6.1.0-13-amd64", headers=["6.1.0-28-amd64"])
    assert tree.facts("kernel")["kernel"] == {
        "running": "6.1.0-9-amd64",
        "next": "6.1.0-28-amd64",
        "headers": {"running": False, "next": True},
    }


def test_modules_that_a_removed_kernel_left_are_no_kernel(tree):
    tree.kernel("6.8.0-87-generic", "6.8.0-87-generic")
    tree.folder("/usr/lib/modules/6.8.0-99-generic/updates")
    assert tree.facts("kernel")["kernel"]["next"] == "6.8.0-87-generic"


def test_rescue_kernels_and_old_copies_are_not_next(tree):
    tree.kernel("5.14.0-570.el9.x86_64", "5.14.0-570.el9.x86_64", "0-rescue-1b2c", "5.14.0-999.el9.x86_64.old")
    assert tree.facts("kernel")["kernel"]["next"] == "5.14.0-570.el9.x86_64"


def test_the_boot_loaders_saved_choice_wins(tree):
    tree.kernel("5.14.0-570.el9.x86_64", "5.14.0-570.el9.x86_64", "5.14.0-611.el9.x86_64")
    for release in ("5.14.0-570.el9.x86_64", "5.14.0-611.el9.x86_64"):
        tree.file(f"/boot/loader/entries/abc-{release}.conf", f"title Rocky Linux\nversion {release}\n")
    tree.file("/boot/grub2/grubenv", "# GRUB Environment Block\nsaved_entry=abc-5.14.0-570.el9.x86_64\n####")
    assert tree.facts("kernel")["kernel"]["next"] == "5.14.0-570.el9.x86_64"


def test_a_saved_choice_that_is_gone_does_not_count(tree):
    tree.kernel("5.14.0-611.el9.x86_64", "5.14.0-611.el9.x86_64")
    tree.file("/boot/loader/entries/abc-5.14.0-611.el9.x86_64.conf", "version 5.14.0-611.el9.x86_64\n")
    tree.file("/boot/grub2/grubenv", "saved_entry=abc-5.14.0-570.el9.x86_64\n")
    assert tree.facts("kernel")["kernel"]["next"] == "5.14.0-611.el9.x86_64"


def test_a_build_link_without_the_devel_package_is_no_headers(tree):
    tree.kernel("5.14.0-570.el9.x86_64", "5.14.0-570.el9.x86_64")
    tree.link("/usr/lib/modules/5.14.0-570.el9.x86_64/build", "/usr/src/kernels/5.14.0-570.el9.x86_64")
    assert tree.facts("kernel")["kernel"]["headers"] == {"running": False, "next": False}


def test_an_empty_folder_that_removed_headers_left_is_no_headers(tree):
    tree.kernel("6.1.0-28-amd64", "6.1.0-28-amd64", headers=["6.1.0-28-amd64"])
    (tree.root / "usr/src/linux-headers-6.1.0-28-amd64/Makefile").unlink()
    assert tree.facts("kernel")["kernel"]["headers"] == {"running": False, "next": False}


def test_a_container_has_no_next_kernel(tree):
    tree.kernel("6.18.44")
    host = tree.facts("kernel")
    assert (host["kernel"]["next"], host["kernel"]["headers"]["next"]) == (None, None)
    assert host["problems"] == []


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.1.0-9-amd64", "6.1.0-28-amd64"),
        ("6.1.0-rc1", "6.1.0-1"),
        ("5.14.0-503.el9", "5.14.0-503.11.1.el9_5"),
        ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.11.1.el9_5.x86_64"),
        ("580.95.05", "580.159.04"),
    ],
)
def test_versions_compare_as_numbers(older, newer):
    assert kernel.version_key(older) < kernel.version_key(newer)
