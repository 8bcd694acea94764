# SPDX-License-Identifier: GPL-3.0-or-later
"""The node path: one command from a bare host, which is the cluster's only GPU node, to an answered chat.

Real: the host with systemd, apt, containerd and kubelet, all roles, the container toolkit's programs, the CDI
specification that they write, KServe. Stand-ins: the cards, the driver's packages and library, NIM, NGC, and the plugin
with the specification of its own that the pods' devices come from.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearsal import hosts, packages, toolchain
from rehearsal.layout import GPUS
from rehearsal.progress import Progress
from rehearsal.standins.ngc import KEYS
from tests.e2e.conftest import Bare
from tests.e2e.test_dcgm_exporter import SERIES

pytestmark = pytest.mark.bare

NAME = "node-path"
FILES = Path(__file__).parent / "gpu_host"
SELECTOR = "serving.kserve.io/inferenceservice=llama3-8b-instruct"
UNIT = """[Unit]
Before=ssh.service containerd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/gpu plug
[Install]
WantedBy=multi-user.target
"""
CHANGE = ("-e", "container_toolkit_default_runtime=true")
PASSWORD = "of-a-registry-0123456789"
OPEN = "import glob; devices = glob.glob('/dev/nvidia*'); [open(name).close() for name in devices]; print(*devices)"


@dataclass(frozen=True)
class Node:
    bare: Bare
    inventory: Path
    first: str  # what the run said that made it a node with GPUs and a model

    def play(self, playbook: str, *options: str, rc: int = 0) -> str:
        inventories = ("-i", "inventories/rehearsal", "-i", self.inventory)
        env = {"NGC_API_KEY": KEYS["valid"]}
        done = self.bare.run("ansible-playbook", *inventories, playbook, *options, rc=rc, env=env)
        return done.stdout + done.stderr

    def ssh(self, command: str) -> str:
        return self.bare.run("python", "-m", "rehearsal", "host", "ssh", NAME, command).stdout

    def pod(self) -> dict[str, Any]:
        """The model's only one."""
        pods = self.bare.get("pods", "-n", "default", "-l", SELECTOR)["items"]
        (pod,) = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return pod

    def opens(self, pod: dict[str, Any]) -> list[str]:
        """The devices of NVIDIA's that are in the pod. Fails where it may not open one."""
        container = ("-c", "kserve-container", "--", "python3", "-c", OPEN)
        return self.bare.kubectl("exec", "-n", "default", pod["metadata"]["name"], *container).split()


@pytest.fixture(scope="module")
def node(bare, run, tmp_path_factory):
    layout, folder = bare.layout, tmp_path_factory.mktemp("node")
    # what comes from a network
    toolchain.build(layout, Progress(), *(f"nvidia-container-toolkit-{each}" for each in toolchain.CONTAINER_TOOLKIT))
    hosts.base(layout, Progress(), "trixie")
    run("python", "molecule/nvidia_driver/repository.py", folder / "driver")
    run("gcc", "-shared", "-fPIC", "-o", folder / "nvml", FILES / "nvml.c")
    rehearsal = ("python", "-m", "rehearsal")
    try:
        bare.run(*rehearsal, "packages", "up")
        bare.run(*rehearsal, "host", "up", NAME, "--release", "trixie", "--node")
        root = hosts.root(layout, NAME)
        shutil.copy2(folder / "nvml", root / "usr/local/lib/nvml")
        shutil.copy(FILES / "gpu", root / "usr/local/sbin/gpu")
        (root / "usr/local/sbin/gpu").chmod(0o755)
        (root / "etc/modprobe.d/stand-in.conf").write_text("install nvidia /usr/local/sbin/gpu load\n")
        (root / "etc/systemd/system/gpu.service").write_text(UNIT)
        config = root / "etc/containerd/config.toml"
        config.write_text(config.read_text().replace("imports = []", f'imports = []\n# password = "{PASSWORD}"'))
        for source in (root / "etc/apt").glob("sources.list*"):  # there is no way to Debian's archive
            shutil.rmtree(source) if source.is_dir() else source.unlink()
        (root / "etc/apt/sources.list.d").mkdir()
        bare.run(*rehearsal, "host", "ssh", NAME, "systemctl enable --quiet --now gpu")
        with bare.serving(folder / "driver") as repository:
            (folder / "hosts.yml").write_text(yaml.safe_dump(inventory(bare, repository, folder)))
            node = Node(bare, folder / "hosts.yml", "")
            yield replace(node, first=node.play("site.yml"))
            # bare again, for whoever comes next
            bare.kserve(kserve_state="absent", kserve_delete_inference_services=True)
            namespaces = [f"namespace/{name}" for name in ("kserve", "nvidia-device-plugin", "dcgm-exporter")]
            bare.kubectl("delete", *namespaces, "runtimeclass/nvidia")
            bare.kubectl("delete", "pvc/nim-model", "secret/ngc-secret", "secret/nvidia-nim-secrets", "-n", "default")
    finally:
        bare.run(*rehearsal, "host", "down", NAME)
        bare.run(*rehearsal, "packages", "down")


def inventory(bare: Bare, repository: str, folder: Path) -> dict[str, Any]:
    """Besides the rehearsal's own: where things come from when nothing can be reached."""
    variables = {
        "ansible_ssh_common_args": f"-F {bare.layout.hosts}/ssh_config",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": False,  # ssh comes as root
        "nvidia_driver_branch": "580",
        "nvidia_driver_repository_url": repository,
        "nvidia_driver_key_url": f"{repository}/key.asc",
        "nvidia_driver_key_fingerprint": (folder / "driver/fingerprint").read_text(),
        "container_toolkit_mirror": packages.ADDRESS,
        "container_toolkit_key_fingerprint": packages.fingerprint(bare.layout),
    }
    everywhere = {**bare.of_kserve(), "gpu_hosts_exporter": True}
    return {"all": {"children": {"gpu_hosts": {"hosts": {NAME: {}}, "vars": variables}}, "vars": everywhere}}


def changes(said: str) -> dict[str, int]:
    recap = said.partition("PLAY RECAP")[2]
    return {name: int(count) for name, count in re.findall(r"^(\S+)\s+: .*changed=(\d+)", recap, re.M)}


def test_one_command_goes_from_a_bare_host_to_an_answered_chat(node):
    assert "meta/llama3-8b-instruct answered" in node.first
    assert changes(node.first)[NAME] > 0
    (row,) = re.findall(rf"^ *{NAME} +580.*$", node.first, re.M)
    assert "580.178.04  open" in row
    assert row.endswith(f"{GPUS} of {GPUS}")
    pod = node.pod()
    assert pod["spec"]["nodeName"] == NAME
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert f'namespace="default",pod="{pod["metadata"]["name"]}"' in node.bare.kubectl("get", "--raw", SERIES)
    controllers = node.bare.get("pods", "-n", "kserve")["items"]
    assert {each["spec"]["nodeName"] for each in controllers} == {NAME}


def test_a_second_run_changes_nothing(node):
    assert set(changes(node.play("site.yml")).values()) == {0}


def test_the_pod_has_its_device_by_cdi_and_keeps_it_over_a_daemon_reload(node):
    pod = node.pod()
    one, control = sorted(node.opens(pod))
    assert re.fullmatch(r"/dev/nvidia[0-3]", one)
    assert control == "/dev/nvidiactl"
    node.ssh("systemctl daemon-reload")
    assert sorted(node.opens(pod)) == [one, control]


def test_a_change_under_a_running_pod_is_refused(node):
    pod = node.pod()
    said = node.play("playbooks/gpu_hosts.yml", "--tags=toolkit", *CHANGE, rc=2)
    assert f"default/{pod['metadata']['name']}" in said
    assert "container_toolkit_drain: true" in said
    assert node.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert 'default_runtime_name = "nvidia"' not in node.ssh("containerd config dump").replace("'", '"')


def test_with_leave_to_drain_the_change_is_made_and_the_model_answers_again(node):
    before = node.pod()["metadata"]["uid"]
    # all of it: the phases of KServe and the plugin wait until their pods are back after the restart of containerd
    said = node.play("site.yml", *CHANGE, "-e", "container_toolkit_drain=true", "-vvvv", "--diff")
    assert "meta/llama3-8b-instruct answered" in said
    assert PASSWORD not in said, "what containerd's configuration knows of registries"
    assert PASSWORD in node.ssh("cat /etc/containerd/config.toml")
    assert node.pod()["metadata"]["uid"] != before
    assert 'default_runtime_name = "nvidia"' in node.ssh("containerd config dump").replace("'", '"')
    assert "unschedulable" not in node.bare.get("node", NAME)["spec"]
    assert len(node.opens(node.pod())) == 2
