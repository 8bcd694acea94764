# SPDX-License-Identifier: GPL-3.0-or-later
"""What users see of gpu_host_info: on this machine through Ansible, and for another root."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._host import facts
from ansible_collections.gpuops.nim.plugins.modules import gpu_host_info

ON_LOCALHOST = """\
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - gpuops.nim.gpu_host_info:
      register: facts
    - ansible.builtin.copy:
        content: "{{ facts | to_json }}"
        dest: "{{ answer }}"
        mode: "0600"
      check_mode: false
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    return tmp_path


def test_another_root(run_module, image):
    code, result = run_module(gpu_host_info.main, root=str(image))
    assert (code, result["changed"]) == (0, False)
    assert set(result["gpu_host"]) == {*facts.PARTS, "problems"}
    assert result["gpu_host"]["os"]["id"] == "debian"
    assert result["gpu_host"]["problems"] == []


def test_check_mode_is_the_same(run_module, image):
    assert run_module(gpu_host_info.main, root=str(image), check=True) == run_module(
        gpu_host_info.main, root=str(image)
    )


def test_parts(run_module, image):
    _, result = run_module(gpu_host_info.main, root=str(image), gather=["gpus"])
    assert result["gpu_host"] == {"gpus": [], "problems": []}


def test_a_part_that_does_not_exist(run_module, image):
    code, result = run_module(gpu_host_info.main, root=str(image), gather=["fans"])
    assert code == 1
    assert "fans" in result["msg"]


@pytest.mark.parametrize("root", ["missing", "etc/os-release"])
def test_a_root_that_is_no_folder(run_module, image, root):
    code, result = run_module(gpu_host_info.main, root=str(image / root))
    assert code == 1
    assert result["msg"] == f"root: {image / root} is no folder."


def test_every_part_is_documented():
    documented = yaml.safe_load(gpu_host_info.DOCUMENTATION)["options"]["gather"]
    returned = yaml.safe_load(gpu_host_info.RETURN)["gpu_host"]["contains"]
    assert documented["choices"] == documented["default"] == list(facts.PARTS)
    assert list(returned) == [*facts.PARTS, "problems"]


def keys(documented):
    return {name: keys(field["contains"]) if "contains" in field else None for name, field in documented.items()}


def assert_documented(found, documented, where):
    for value in found if isinstance(found, list) else [found]:
        if value is None or documented is None:
            continue
        assert set(value) == set(documented), where
        for name, inner in value.items():
            assert_documented(inner, documented[name], f"{where}.{name}")


def test_on_this_machine_through_ansible(run, root, tmp_path):
    """Of which is known only that it runs the tests: without a GPU as a rule, but then with one is right as well."""
    playbook, answer = tmp_path / "play.yml", tmp_path / "answer.json"
    playbook.write_text(ON_LOCALHOST)
    env = {"ANSIBLE_COLLECTIONS_PATH": str(root / "collections")}
    for mode in ((), ("--check",)):
        ours = ("-e", f"answer={answer}", "-e", f"ansible_python_interpreter={sys.executable}")
        run("ansible-playbook", "-i", "localhost,", playbook, *ours, *mode, env=env)
        result = json.loads(answer.read_text())
        answer.unlink()
        assert result["changed"] is False
        host = result["gpu_host"]
        cards = [path for path in Path("/sys/bus/pci/devices").glob("*/vendor") if path.read_text() == "0x10de\n"]
        displays = [path for path in cards if path.with_name("class").read_text().startswith("0x03")]
        assert [gpu["address"] for gpu in host["gpus"]] == sorted(path.parent.name for path in displays)
        assert host["problems"] == []
        assert_documented(host, keys(yaml.safe_load(gpu_host_info.RETURN)["gpu_host"]["contains"]), "gpu_host")
