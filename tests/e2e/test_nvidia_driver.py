# SPDX-License-Identifier: GPL-3.0-or-later
"""nvidia_driver on a node of a real API server: drained before a change, given back when its GPUs are back.

Host and packages are those of molecule's scenario.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from rehearsal.layout import Layout
from tests.integration import played_node

pytestmark = [pytest.mark.rehearsal, pytest.mark.usefixtures("hosts_are_free")]

LAYOUT = Layout.from_environment()
NODE = HOST = "driver-node"
PORT = 25463


@pytest.fixture(scope="module")
def host(run, root, tmp_path_factory):
    """Runs a command on a Debian host that sees a GPU and has a repository of stand-ins for the driver's packages."""
    scenario, folder = root / "molecule" / "nvidia_driver", tmp_path_factory.mktemp("driver")
    run(sys.executable, scenario / "repository.py", folder / "repository")
    run(sys.executable, "-m", "rehearsal", "host", "up", HOST, "--release", "bookworm")
    variables = {
        "ansible_ssh_common_args": f"-F {LAYOUT.hosts}/ssh_config",
        "ansible_python_interpreter": "/usr/bin/python3",
        "release": "bookworm",
        "packages_port": PORT,
        "built": str(folder / "repository"),
        "nvidia_driver_repository_url": f"http://127.0.0.1:{PORT}",
        "nvidia_driver_key_url": f"http://127.0.0.1:{PORT}/key.asc",
        "nvidia_driver_key_fingerprint": (folder / "repository" / "fingerprint").read_text(),
        "nvidia_driver_drain": True,
        "nvidia_driver_drain_force": True,
    }
    inventory = folder / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"children": {"gpu_hosts": {"hosts": {HOST: variables}}}}}))
    run("ansible-playbook", "-i", inventory, scenario / "prepare.yml")

    def role(rc=0, **variables):
        play = {"hosts": HOST, "gather_facts": False, "roles": ["gpuops.nim.nvidia_driver"], "vars": variables}
        play["module_defaults"] = {"group/gpuops.nim.nim": {"kubeconfig": str(LAYOUT.kubeconfig)}}
        (folder / "play.yml").write_text(yaml.safe_dump([play]))
        return run("ansible-playbook", "-i", inventory, folder / "play.yml", rc=rc).stdout

    def command(*words):
        return run(sys.executable, "-m", "rehearsal", "host", "ssh", HOST, *words).stdout.strip()

    command.role = role
    yield command
    run(sys.executable, "-m", "rehearsal", "host", "down", HOST)


@pytest.fixture
def boot(host):
    """The identifier of the boot that the host is in now."""
    return lambda: host("cat", "/proc/sys/kernel/random/boot_id")


@pytest.fixture
def node(boot, kubectl):
    with played_node.playing(NODE, kubectl) as node:
        node.report(boot=boot())
        yield node


def test_a_node_takes_no_pods_until_its_gpus_are_back(host, boot, node, new_namespace, apply, until):
    namespace = new_namespace("driver")
    metadata = {"name": "model", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": node.pod})
    until(lambda: node.pods(namespace), "the pod on the node")

    refused = host.role(rc=2, nvidia_driver_drain=False)
    assert f"{namespace}/model" in " ".join(refused.split())
    assert node.cordon() == (False, False)
    assert node.pods(namespace) == ["model"]

    booted = boot()
    late = " ".join(host.role(rc=2, nvidia_driver_reboot="always", nvidia_driver_restore_timeout=1).split())
    assert "has not reported since the host was booted" in late
    assert boot() != booted
    assert "580.178.04" in host("cat", "/sys/module/nvidia/version")
    assert not node.pods(namespace)
    assert node.cordon() == (True, True)

    node.report(boot=boot())
    assert "changed=1 " in host.role(nvidia_driver_reboot="always")
    assert node.cordon() == (False, False)


def test_a_host_that_is_lost_in_mid_installation_takes_no_pods_until_a_later_run_ends(host, boot, node, run, until):
    host.role(nvidia_driver_version="580.95.05", nvidia_driver_reboot="never")
    assert node.cordon() == (True, True), "another version is loaded than the libraries have"

    host("touch", "/root/dkms-hangs")
    with ThreadPoolExecutor(1) as pool:
        played = pool.submit(host.role, rc=4, nvidia_driver_branch="595")
        until(lambda: host("pgrep", "-f", "'[d]kms.postinst'", "||", "true"), "the packages to be configured")
        run(sys.executable, "-m", "rehearsal", "host", "stop", HOST)
    assert "unreachable=1" in played.result()
    assert node.cordon() == (True, True)

    run(sys.executable, "-m", "rehearsal", "host", "up", HOST, "--release", "bookworm")
    host("rm", "/root/dkms-hangs")
    node.report(boot=boot())
    refused = " ".join(host.role(rc=2, nvidia_driver_branch="595").split())
    assert f"Run `dpkg --configure -a` on {HOST}" in refused
    assert node.cordon() == (True, True), "its driver is only half there"

    host("dpkg", "--configure", "-a")
    host.role(nvidia_driver_branch="595")
    assert "595.91.07" in host("cat", "/sys/module/nvidia/version")
    assert node.cordon() == (False, False)
    assert "changed=0 " in host.role(nvidia_driver_branch="595")
