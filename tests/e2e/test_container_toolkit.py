# SPDX-License-Identifier: GPL-3.0-or-later
"""The container toolkit never disturbs a GPU pod unasked: a real API server, and a host whose node has such a pod.

The node is an object without a kubelet, so that the cluster's own node, which other tests use, stays in service.
"""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from rehearsal import packages
from rehearsal.layout import Layout

pytestmark = [pytest.mark.rehearsal, pytest.mark.usefixtures("hosts_are_free")]

LAYOUT = Layout.from_environment()
NODE = HOST = "toolkit-guard"
TAINT = {"key": "gpuops.nim/test", "value": NODE, "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def host(run):
    """A Debian host, and the repository of the toolkit."""
    run(sys.executable, "-m", "rehearsal", "packages", "up")
    run(sys.executable, "-m", "rehearsal", "host", "up", HOST, "--release", "trixie")
    yield lambda *command: run(sys.executable, "-m", "rehearsal", "host", "ssh", HOST, *command).stdout
    run(sys.executable, "-m", "rehearsal", "host", "down", HOST)
    run(sys.executable, "-m", "rehearsal", "packages", "down")


@pytest.fixture(scope="module")
def node(kubectl, apply):
    """The host's node. Only pods that tolerate it come here."""
    apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
            "spec": {"taints": [TAINT]},
        }
    )
    capacity = {"cpu": "4", "memory": "8Gi", "pods": "10", "nvidia.com/gpu": "1"}
    patch = {"status": {"capacity": capacity, "allocatable": capacity}}
    kubectl("patch", "node", NODE, "--subresource=status", "-p", json.dumps(patch))
    yield lambda: json.loads(kubectl("get", "node", NODE, "-o", "json"))["spec"].get("unschedulable", False)
    kubectl("delete", "node", NODE)


@pytest.fixture
def pod(node, new_namespace, apply, until, objects):
    """NAMESPACE/NAME of a pod of a Deployment that has the node's GPU."""
    namespace = new_namespace("toolkit")
    tolerations = [{"operator": "Exists", "key": key} for key in (TAINT["key"], "node.kubernetes.io/not-ready")]
    tolerations.append({"operator": "Exists", "key": "node.kubernetes.io/unreachable"})
    template = {
        "metadata": {"labels": {"app": "model"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": NODE},
            "tolerations": tolerations,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "model", "image": "none", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        },
    }
    apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "model", "namespace": namespace},
            "spec": {"selector": {"matchLabels": {"app": "model"}}, "template": template},
        }
    )

    def bound():
        return [name for name, pod in objects("pods", namespace).items() if pod["spec"].get("nodeName") == NODE]

    return f"{namespace}/{until(bound, 'the pod on the node')[0]}"


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


def test_a_gpu_pod_is_disturbed_only_when_asked(role, host, node, pod, objects):
    installed = ("dpkg-query --show 'nvidia-container-toolkit*' 2>/dev/null || true",)
    namespace, name = pod.split("/")

    refused = role(rc=2)
    assert pod in refused
    assert host(*installed) == ""
    assert name in objects("pods", namespace)
    assert not node()

    role(container_toolkit_drain=True)
    assert name not in objects("pods", namespace)
    assert "nvidia-container-toolkit\t1.20.1-1" in host(*installed)
    assert not node(), "the node was not given back"

    # the Deployment's next pod is there; a run that has nothing to change leaves it alone
    assert "changed=0" in role(container_toolkit_drain=True)
