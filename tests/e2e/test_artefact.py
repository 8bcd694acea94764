# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as it is published: built, installed without a network, and used from there."""

from __future__ import annotations

import tarfile

import pytest

from rehearsal.standins.ngc import KEYS

KEY = KEYS["valid"]
PLAYBOOKS = ("site", "gpu_hosts", "preflight", "diagnose", "rotate_key", "upgrade", "teardown")


@pytest.fixture(scope="module")
def archive(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artefact")
    run("ansible-galaxy", "collection", "build", "--output-path", folder)
    return next(folder.glob("gpuops-nim-*.tar.gz"))


@pytest.fixture(scope="module")
def installed(run, archive, tmp_path_factory):
    """Environment and folder of a user who has the collection installed and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("user")
    env = {
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        "HOME": str(folder),
    }
    run(
        *("ansible-galaxy", "collection", "install", "--offline", "--no-deps", archive),
        *("--collections-path", folder / "collections"),
        env=env,
        cwd=folder,
    )
    return env, folder


def test_has_what_users_run_and_nothing_else(archive):
    with tarfile.open(archive) as files:
        names = {name.rstrip("/") for name in files.getnames()}
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders <= {"LICENSES", "docs", "inventories", "meta", "playbooks", "plugins", "roles"}
    assert {
        "site.yml",
        "README.md",
        "CHANGELOG.md",
        "requirements.txt",
        "inventories/self_managed/group_vars/all.yml",
        "meta/runtime.yml",
        *(f"playbooks/{name}.yml" for name in PLAYBOOKS),
        "playbooks/vars/original.yml",
        "playbooks/templates/diagnosis.html.j2",
        "playbooks/templates/gpu_hosts.txt.j2",
        "playbooks/templates/summary.txt.j2",
        "plugins/modules/nim_kserve.py",
        "roles/nim_predictor/meta/argument_specs.yml",
    } <= names
    for unwanted in ("__pycache__", "inventories/rehearsal", ".venv", ".tar.gz"):
        assert not [name for name in names if unwanted in name]
    assert not [name for name in names if name.startswith(".") or "/." in name]


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbooks_are_found(run, installed, playbook):
    env, folder = installed
    inventory = folder / "collections" / "ansible_collections" / "gpuops" / "nim" / "inventories" / "self_managed"
    run("ansible-playbook", "--syntax-check", f"gpuops.nim.{playbook}", "-i", inventory, env=env, cwd=folder)


@pytest.mark.rehearsal
def test_playbooks_run_from_the_installed_copy(run, root, installed, folders):
    env, folder = installed
    env = env | folders | {"NGC_API_KEY": KEY}
    args = ("-i", root / "inventories" / "rehearsal", "-e", "nim_predictor_namespace=artefact")
    done = run("ansible-playbook", "gpuops.nim.site", *args, env=env, cwd=folder)
    assert "You said:" in done.stdout
    done = run("ansible-playbook", "gpuops.nim.teardown", *args, "-e", "teardown_cache=true", env=env, cwd=folder)
    assert "changed=2" in done.stdout
