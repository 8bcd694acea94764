# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of modules and roles is right, and can be read: build/docs."""

from __future__ import annotations

import re

import pytest
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings
from ansible_collections.gpuops.nim.plugins.module_utils._nim.causes import model
from ansible_collections.gpuops.nim.plugins.modules import nim_kserve
from tests.conftest import ROOT
from tests.integration import arena_flags
from tests.sanity import findings_page

COLLECTION = "gpuops.nim"


def test_documentation_has_no_faults(run):
    run("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "self", ".")


def test_every_module_and_role_has_a_page(run, root):
    pages = root / "build" / "docs"
    pages.mkdir(parents=True, exist_ok=True)
    # found through the checkout's link, whatever else is installed
    env = {"ANSIBLE_COLLECTIONS_PATH": str(root / "collections")}
    run("antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--dest-dir", pages, COLLECTION, env=env)
    expected = {f"{module.stem}_module.rst" for module in (root / "plugins" / "modules").glob("*.py")}
    expected |= {f"{role.name}_role.rst" for role in (root / "roles").iterdir()}
    assert expected <= {page.name for page in pages.glob("*.rst")}


def _options(spec):
    return {name: option.get("default") for name, option in spec["options"].items()}


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_role_defaults_are_the_documented_ones(root, role):
    folder = root / "roles" / role
    defaults = yaml.safe_load((folder / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((folder / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    documented = _options(specs["main"])
    assert defaults == {name: value for name, value in documented.items() if value is not None}
    for name, spec in specs.items():
        assert (folder / "tasks" / f"{name}.yml").is_file()
        assert _options(spec).items() <= documented.items(), f"entry point {name} documents what main does not"


@pytest.mark.parametrize("role", ["nim_predictor"])
def test_each_entry_point_documents_the_variables_that_it_uses(root, role):
    folder = root / "roles" / role
    specs = yaml.safe_load((folder / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    internal = yaml.safe_load((folder / "vars" / "main.yml").read_text())
    for name in set(specs) - {"main"}:
        text = (folder / "tasks" / f"{name}.yml").read_text()
        # an internal variable stands for what it is made of
        for variable, expression in reversed(internal.items()):
            text = text.replace(variable, expression)
        used = {option for option in specs["main"]["options"] if option in _words(text)}
        assert used == set(specs[name]["options"])


def _words(text):
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


def test_arenas_table_is_what_the_tests_deploy():
    assert arena_flags.PAGE.read_text() == arena_flags.page(), "run: python tests/integration/arena_flags.py"


def test_arenas_table_names_documented_options():
    options = nim_kserve.SPEC.argument_spec
    named = {alias: name for name, option in options.items() for alias in [name, *option.get("aliases", ())]}
    for flag in arena_flags.FLAGS:
        assert flag.option in {named[name] for name in flag.given}, flag.flag


def test_the_page_of_findings_is_made_from_the_rules():
    assert findings_page.PAGE.read_text() == findings_page.page(), f"run: {findings_page.COMMAND}"


def test_every_finding_links_to_a_section_of_the_page():
    headings = re.findall(r"^### (.*)$", findings_page.PAGE.read_text(), re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading).replace(" ", "-") for heading in headings}  # as GitHub makes them
    links = [model.anchor(rule.id, case.variant) for rule in findings.RULES for case in rule.cases]
    assert {link.rpartition("#")[2] for link in links} == anchors
    assert len(anchors) == len(headings)
    assert {link.partition("/blob/main/")[2].partition("#")[0] for link in links} == {"docs/findings.md"}
