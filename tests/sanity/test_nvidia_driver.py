# SPDX-License-Identifier: GPL-3.0-or-later
"""The role nvidia_driver says the same in its documentation, its filter and the page of what is supported."""

from __future__ import annotations

import re

import yaml

from ansible_collections.gpuops.nim.plugins.filter import nvidia_driver_plan
from ansible_collections.gpuops.nim.plugins.module_utils._host import drivers
from tests.sanity import driver_page

ROLE = "nvidia_driver"


def test_the_page_is_made_from_the_tables():
    assert driver_page.PAGE.read_text() == driver_page.page(), f"run: {driver_page.COMMAND}"


def test_what_is_said_to_be_installed_in_tests_is(root):
    inventory = yaml.safe_load((root / "molecule" / ROLE / "inventory" / "hosts.yml").read_text())
    releases = {host["release"] for host in inventory["all"]["children"]["gpu_hosts"]["hosts"].values()}
    assert {system.codename for system in drivers.SYSTEMS if system.tested == drivers.INSTALLED} == releases


def _options(root):
    specs = yaml.safe_load((root / "roles" / ROLE / "meta" / "argument_specs.yml").read_text())
    return specs["argument_specs"]["main"]["options"]


def test_every_variable_has_a_reader(root):
    files = [*(root / "roles" / ROLE / "tasks").glob("*.yml"), *(root / "roles" / ROLE / "templates").iterdir()]
    text = "".join(path.read_text() for path in [*files, root / "roles" / ROLE / "vars" / "main.yml"])
    assert {name for name in _options(root) if not re.search(rf"\b{name}\b", text)} == set()


def test_role_and_filter_take_the_same_choices(root):
    documented = yaml.safe_load(nvidia_driver_plan.DOCUMENTATION)["options"]
    for name, option in documented.items():
        if name != "_input":
            ours = _options(root)[f"{ROLE}_{name}"]
            assert (ours.get("choices"), ours["default"]) == (option.get("choices"), option["default"]), name
