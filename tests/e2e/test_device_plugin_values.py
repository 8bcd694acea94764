# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role device_plugin makes of its variables: numbers and booleans, with each ansible-core."""

from __future__ import annotations

import json

import pytest
import yaml


@pytest.mark.matrix
def test_numbers_and_booleans_stay_what_they_are(run, root, tmp_path):
    role = root / "roles" / "device_plugin"
    said = {
        "device_plugin_time_slicing_replicas": 3,
        "device_plugin_gfd": True,
        "device_plugin_image_pull_secrets": ["123"],
        "device_plugin_found": {"owner": None, "runtime_classes": []},
    }
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    play["vars_files"] = [str(role / "defaults" / "main.yml"), str(role / "vars" / "main.yml")]
    play["tasks"] = [{"ansible.builtin.debug": {"msg": "MADE{{ __device_plugin_values | to_json }}MADE"}, "vars": said}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    told = run(
        "ansible-playbook", "-i", "localhost,", tmp_path / "play.yml", env={"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    )
    values = json.loads(json.loads('"' + told.stdout.split("MADE")[1] + '"'))
    config = yaml.safe_load(values["config"]["map"]["default"])
    assert config["sharing"]["timeSlicing"] == {
        "renameByDefault": False,
        "failRequestsGreaterThanOne": True,
        "resources": [{"name": "nvidia.com/gpu", "replicas": 3}],
    }
    assert config["flags"]["failOnInitError"] is values["failOnInitError"] is values["gfd"]["enabled"] is True
    assert values["imagePullSecrets"] == [{"name": "123"}]
