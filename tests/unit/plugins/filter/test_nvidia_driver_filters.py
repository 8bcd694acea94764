# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's filters as a template sees them."""

from __future__ import annotations

import base64

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.gpuops.nim.plugins.filter.nvidia_driver_plan import nvidia_driver_plan
from ansible_collections.gpuops.nim.plugins.filter.openpgp_key_mismatch import openpgp_key_mismatch

HOST = {
    "os": {"id": "debian", "version": "12", "name": "Debian GNU/Linux", "arch": "x86_64"},
    "kernel": {"running": "6.1.0-56-amd64", "next": "6.1.0-56-amd64"},
    "gpus": [{"name": "H100", "generation": "hopper"}],
}


def test_numbers_are_taken_for_branches() -> None:
    assert nvidia_driver_plan(HOST, branch=595)["pin"] == "nvidia-driver-pinning-595"


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match="colour"):
        nvidia_driver_plan(HOST, colour="red")


def test_a_page_in_place_of_a_key_is_no_key() -> None:
    assert "is not a key" in openpgp_key_mismatch(base64.b64encode(b"<html>").decode(), "AB" * 20)
