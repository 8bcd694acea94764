# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints, against what gpg says of the same key, and files that would have more trusted than the wanted key."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host.openpgp import NotAKey, fingerprints, mismatch


def gpg(home: Path, *arguments: str) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module", params=["rsa2048", "ed25519"])
def key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A keyring with one key that has a subkey, and its fingerprint."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    gpg(home, "--quick-generate-key", "Tests <tests@example.com>", request.param, "sign", "1d")
    listed = gpg(home, "--with-colons", "--list-keys").decode()
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    gpg(home, "--quick-add-key", fingerprint, "rsa2048", "sign", "1d")
    yield home, fingerprint
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_gpg_says_the_same(key: tuple[Path, str]) -> None:
    home, fingerprint = key
    armored = gpg(home, "--armor", "--export")
    assert fingerprints(armored) == [fingerprint]
    assert fingerprints(gpg(home, "--export")) == [fingerprint]
    assert fingerprints(armored.replace(b"\n", b"\r\n")) == [fingerprint]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Somebody else's."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    gpg(home, "--quick-generate-key", "Others <others@example.com>", "ed25519", "sign", "1d")
    listed = gpg(home, "--with-colons", "--list-keys").decode()
    yield home, next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_the_wanted_key_is_taken_however_its_fingerprint_is_written(key: tuple[Path, str]) -> None:
    home, fingerprint = key
    spaced = " ".join(fingerprint[at : at + 4] for at in range(0, 40, 4)).lower()
    assert mismatch(gpg(home, "--armor", "--export"), spaced) == ""


def test_another_key_is_named(key: tuple[Path, str], other: tuple[Path, str]) -> None:
    said = mismatch(gpg(other[0], "--armor", "--export"), key[1])
    assert said == f"has the fingerprint {other[1]}, and {key[1]} is wanted"
    assert mismatch(b"<html>404</html>", key[1]).startswith("is not a key")


@pytest.mark.parametrize("armor", [("--armor",), ()])
def test_a_second_key_in_the_file_is_named(
    armor: tuple[str, ...], key: tuple[Path, str], other: tuple[Path, str]
) -> None:
    ours, theirs = gpg(key[0], *armor, "--export"), gpg(other[0], *armor, "--export")
    for content in (ours + theirs, theirs + ours):
        assert mismatch(content, key[1]).endswith(f"would be trusted, too: {other[1]}")


def test_keys_that_only_other_programs_would_see_are_refused(key: tuple[Path, str], other: tuple[Path, str]) -> None:
    """Another armor beside the key's, or within it, that a laxer reader would take for one."""
    ours = gpg(key[0], "--armor", "--export")
    theirs = gpg(other[0], "--armor", "--export")
    sloppy = theirs.replace(b"BLOCK-----\n", b"BLOCK----- \n", 1)
    in_headers = ours.replace(b"\n\n", b"\n \n" + theirs.splitlines()[2] + b"\n\n", 1)
    binary = gpg(key[0], "--export")
    in_user_id = binary + b"\xcd" + b"\xff" + len(theirs).to_bytes(4, "big") + theirs
    for content in (sloppy + ours, ours + sloppy, in_headers, in_user_id, gpg(other[0], "--export") + ours):
        assert mismatch(content, key[1]).startswith("is not a key"), content


@pytest.mark.parametrize("content", [b"", b"<html><title>404</title></html>", b"\x99\x01", b"\xff\xff"])
def test_what_is_no_key_is_refused(content: bytes) -> None:
    with pytest.raises(NotAKey):
        fingerprints(content)


def test_a_damaged_key_is_never_the_right_one(key: tuple[Path, str]) -> None:
    home, fingerprint = key
    lines = gpg(home, "--armor", "--export").decode().splitlines()
    assert mismatch("\n".join([*lines[:3], *lines[4:]]).encode(), fingerprint)
