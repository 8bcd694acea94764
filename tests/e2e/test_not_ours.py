# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rehearsal's usual cluster has already, and no role of ours made, is left alone."""

from __future__ import annotations

import pytest
import yaml

from rehearsal.layout import Layout

pytestmark = pytest.mark.rehearsal


@pytest.fixture
def role(run, tmp_path):
    """`role("kserve", rc=2, kserve_state="absent")`: what it said."""

    def role(name, rc=0, **variables):
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": [f"gpuops.nim.{name}"]}
        play["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}", **variables}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        env = {"K8S_AUTH_KUBECONFIG": str(Layout.from_environment().kubeconfig)}
        return " ".join(
            run("ansible-playbook", "-i", "localhost,", tmp_path / "play.yml", env=env, rc=rc).stdout.split()
        )

    return role


def test_gpus_whose_plugin_is_not_seen_are_not_offered_twice(role, kubectl):
    """They are written into the node's status."""
    assert "no plugin is seen" in role("device_plugin")
    assert "nvidia-device-plugin" not in kubectl("get", "namespaces", "-o", "name")


def test_a_kserve_that_somebody_else_installed(role, kubectl, tmp_path):
    """Its controller runs outside the cluster. Nothing is downloaded for it, either."""

    def versions():
        kinds = "crd,mutatingwebhookconfiguration,validatingwebhookconfiguration"
        path = "{range .items[*]}{.metadata.name} {.metadata.uid} {.metadata.generation}{'\\n'}{end}"
        return kubectl("get", kinds, "-o", f"jsonpath={path}")

    before, cache = versions(), {"kserve_cache": str(tmp_path / "none")}
    assert "left as it is" in role("kserve", **cache)
    assert "was not installed by this role" in role("kserve", rc=2, kserve_state="absent", **cache)
    assert versions() == before
    assert not (tmp_path / "none").exists()
