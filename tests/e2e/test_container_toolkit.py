# SPDX-License-Identifier: GPL-3.0-or-later
"""The container toolkit never disturbs a GPU pod unasked: a real API server, and a host whose node has such a pod."""

from __future__ import annotations

import sys

import pytest
import yaml

from rehearsal import packages
from rehearsal.layout import Layout
from tests.integration import played_node

pytestmark = [pytest.mark.rehearsal, pytest.mark.usefixtures("hosts_are_free")]

LAYOUT = Layout.from_environment()
NODE = HOST = "toolkit-guard"
INSTALLED = ("dpkg-query --show 'nvidia-container-toolkit*' 2>/dev/null || true",)


@pytest.fixture(scope="module")
def host(run):
    """A Debian host, and the repository of the toolkit."""
    run(sys.executable, "-m", "rehearsal", "packages", "up")
    run(sys.executable, "-m", "rehearsal", "host", "up", HOST, "--release", "trixie")
    yield lambda *command: run(sys.executable, "-m", "rehearsal", "host", "ssh", HOST, *command).stdout
    run(sys.executable, "-m", "rehearsal", "host", "down", HOST)
    run(sys.executable, "-m", "rehearsal", "packages", "down")


@pytest.fixture
def node(kubectl):
    with played_node.playing(NODE, kubectl) as node:
        yield node


@pytest.fixture
def role(run, host, tmp_path):
    """Runs it: `role(container_toolkit_drain=True, rc=0)`."""

    def role(rc=0, **variables):
        play = {
            "hosts": HOST,
            "gather_facts": False,
            "module_defaults": {"group/gpuops.nim.nim": {"kubeconfig": str(LAYOUT.kubeconfig)}},
            "vars": {
                "ansible_ssh_common_args": f"-F {LAYOUT.hosts}/ssh_config",
                "ansible_python_interpreter": "/usr/bin/python3",
                "container_toolkit_mirror": packages.ADDRESS,
                "container_toolkit_key_fingerprint": packages.fingerprint(LAYOUT),
                "container_toolkit_require_gpu": False,
                "container_toolkit_cdi": "if_possible",
                "container_toolkit_runtime": "none",
                "container_toolkit_node": NODE,
                **variables,
            },
            "roles": ["gpuops.nim.container_toolkit"],
        }
        playbook = tmp_path / "play.yml"
        playbook.write_text(yaml.safe_dump([play]))
        return run("ansible-playbook", "-i", f"{HOST},", playbook, rc=rc).stdout

    return role


def test_who_has_a_gpu_is_seen_although_the_cluster_has_no_such_node(role, host):
    unit = f"cri-containerd-{'0123456789abcdef' * 4}.scope"
    program = "sh -c 'exec 3< /dev/nvidia0; exec sleep infinity'"
    host("mount -t tmpfs none /sys/module; mkdir /sys/module/nvidia; echo 580.95.05 > /sys/module/nvidia/version")
    host(f"touch /dev/nvidia0; nohup systemd-run --scope --unit={unit} {program} > /dev/null 2>&1 < /dev/null &")

    refused = " ".join(role(rc=2, container_toolkit_node="nobody").split())
    assert "a container outside of pods" in refused
    assert "The cluster has no node nobody" in refused
    assert host(*INSTALLED) == ""
    host(f"systemctl stop {unit}; umount /sys/module")


def test_a_gpu_pod_is_disturbed_only_when_asked(role, host, node, new_namespace, apply, until):
    namespace = new_namespace("toolkit")
    apply(node.deployment(namespace))
    (pod,) = until(lambda: node.pods(namespace), "the pod on the node")

    refused = role(rc=2)
    assert f"{namespace}/{pod}" in refused
    assert host(*INSTALLED) == ""
    assert node.pods(namespace) == [pod]
    assert node.cordon() == (False, False)

    role(container_toolkit_drain=True)
    assert pod not in node.pods(namespace)
    assert "nvidia-container-toolkit\t1.20.1-1" in host(*INSTALLED)
    assert node.cordon() == (False, False), "the node was not given back"

    # the Deployment's next pod is there; a run that has nothing to change leaves it alone
    assert "changed=0" in role(container_toolkit_drain=True)
