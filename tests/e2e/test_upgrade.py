# SPDX-License-Identifier: GPL-3.0-or-later
"""upgrade.yml as users run it: to the inventory's new tag, to one that does not work, to one that isn't there."""

from __future__ import annotations

import json

import pytest

from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

NAMESPACE = ("-e", "nim_predictor_namespace=upgrade-e2e")


def services(tag, **more):
    cache = {"claim": "nim-model", "size": "1Gi", "storage_class": "rehearsal"}
    image = f"nvcr.io/nim/meta/llama3-8b-instruct:{tag}"
    entry = {"name": "llama3-8b-instruct", "image": image, "gpus": 0, "cache": cache, **more}
    return ("-e", json.dumps({"nim_predictor_services": [entry]}))


def playbook(run, name, *args, rc=0, **more):
    return run("ansible-playbook", name, *NAMESPACE, *args, env={"NGC_API_KEY": KEYS["valid"]}, rc=rc, **more)


@pytest.fixture(scope="module")
def deployed(run):
    try:
        yield playbook(run, "site.yml", *services("1.0.0"))
    finally:
        playbook(run, "playbooks/teardown.yml", *services("1.0.0"), "-e", "teardown_cache=true")


def upgrade(run, *args, **more):
    return playbook(run, "playbooks/upgrade.yml", *args, **more)


def test_to_the_tag_of_the_inventory_and_site_yml_agrees(run, deployed):
    checked = upgrade(run, *services("1.0.3"), "--check", "--diff")
    assert "would be upgraded: llama3-8b-instruct in namespace upgrade-e2e" in checked.stdout
    done = upgrade(run, *services("1.0.3"))
    for part in ("upgraded: llama3-8b-instruct", ":1.0.0 → ", ":1.0.3", "answers: I am meta/llama3-8b-instruct"):
        assert part in done.stdout
    for again in (upgrade(run, *services("1.0.3")), playbook(run, "site.yml", *services("1.0.3"))):
        assert "changed=0" in again.stdout


def test_a_release_that_does_not_work_ends_with_2_and_the_old_one_answers(run, deployed):
    failed = upgrade(run, *services("1.0.3", model_profile="vllm-fp16-tp16"), rc=2)
    said = failed.stdout + failed.stderr
    for part in ("no profile of this model fits", "is back on", "answers again"):
        assert part in said
    assert "changed=0" in playbook(run, "site.yml", *services("1.0.3")).stdout


def test_a_tag_that_is_not_there_ends_with_2_and_has_changed_nothing(run, deployed):
    failed = upgrade(run, *services("9.9.9"), rc=2)
    assert "the service was not touched" in failed.stdout + failed.stderr
    assert "changed=0" in failed.stdout


def test_only_those_that_are_named(run, deployed):
    none = upgrade(run, *services("9.9.9"), "-e", '{"nim_predictor_upgrade_only": []}')
    assert "changed=0" in none.stdout
    for name in ("llama3-8b", "llama3-8b-instruct,nobody"):  # a part of a name is none
        unknown = upgrade(run, *services("9.9.9"), "-e", f"nim_predictor_upgrade_only={name}", rc=2)
        assert "There are: llama3-8b-instruct." in unknown.stdout
    one = upgrade(run, *services("9.9.9"), "-e", "nim_predictor_upgrade_only=llama3-8b-instruct", rc=2)
    assert "the service was not touched" in one.stdout + one.stderr
