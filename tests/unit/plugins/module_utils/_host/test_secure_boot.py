# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM = "/sys/firmware/efi/efivars/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"


def facts(tree):
    host = tree.facts("secure_boot")
    return host["secure_boot"], host["problems"]


def test_on(tree):
    tree.file(SECURE_BOOT, b"\x06\0\0\0\x01")
    tree.file("/var/lib/shim-signed/mok/MOK.der")
    assert facts(tree) == ({"enabled": True, "signing_keys": ["/var/lib/shim-signed/mok/MOK.der"], "enrolled": []}, [])


def test_off(tree):
    tree.file(SECURE_BOOT, b"\x06\0\0\0\x00")
    assert facts(tree) == ({"enabled": False, "signing_keys": [], "enrolled": []}, [])


def test_without_uefi(tree):
    tree.folder("/sys/firmware/acpi")
    assert facts(tree)[0]["enabled"] is False


def test_an_image_does_not_tell(tree):
    tree.folder("/etc")
    assert facts(tree) == ({"enabled": None, "signing_keys": [], "enrolled": []}, [])


def test_shim_does_not_check(tree):
    tree.file(SECURE_BOOT, b"\x06\0\0\0\x01")
    tree.file(SHIM, b"\x06\0\0\0\x01")
    assert facts(tree)[0]["enabled"] is False


def test_a_switch_that_was_written_from_the_running_system_does_not_count(tree):
    tree.file(SECURE_BOOT, b"\x06\0\0\0\x01")
    tree.file(SHIM, b"\x07\0\0\0\x01")
    assert facts(tree)[0]["enabled"] is True


def test_a_truncated_variable(tree):
    tree.file(SECURE_BOOT, b"\x06\0")
    found, problems = facts(tree)
    assert found["enabled"] is None
    assert problems == [{"what": SECURE_BOOT, "why": "2 bytes, not 5."}]


def test_mokutil_is_asked_where_the_variables_are_not_mounted(tree):
    tree.folder("/sys/firmware/efi/efivars")
    assert facts(tree)[0]["enabled"] is None
    tree.printed["mokutil --sb-state"] = "SecureBoot enabled\n"
    assert facts(tree)[0]["enabled"] is True
    tree.printed["mokutil --sb-state"] = "SecureBoot enabled\nSecureBoot validation is disabled in shim\n"
    assert facts(tree)[0]["enabled"] is False


def test_the_certificate_that_dkms_was_told_to_use(tree):
    tree.file("/etc/dkms/framework.conf", '# mok_certificate="/not/this"\nmok_certificate="/root/own.der"\n')
    tree.file("/root/own.der")
    tree.file("/var/lib/dkms/mok.pub")
    assert facts(tree)[0]["signing_keys"] == ["/root/own.der", "/var/lib/dkms/mok.pub"]


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/sys/firmware/efi/mok-variables/MokListRT", b""),
        ("/sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23", b"\x06\0\0\0"),
    ],
)
def test_which_certificates_are_enrolled(tree, path, prefix):
    tree.file(SECURE_BOOT, b"\x06\0\0\0\x01")
    tree.file("/var/lib/dkms/mok.pub", b"\x30\x82\x03\x01 made by DKMS")
    tree.file("/var/lib/shim-signed/mok/MOK.der", b"\x30\x82\x03\x01 made by Ubuntu")
    tree.file(path, prefix + b"a list with \x30\x82\x03\x01 made by DKMS and more")
    assert facts(tree)[0]["enrolled"] == ["/var/lib/dkms/mok.pub"]


def test_an_empty_certificate_is_not_enrolled(tree):
    tree.file("/var/lib/dkms/mok.pub")
    tree.file("/sys/firmware/efi/mok-variables/MokListRT", b"a list")
    assert facts(tree)[0]["enrolled"] == []
