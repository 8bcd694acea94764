# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_hosts.yml on a host booted with systemd, which has no card, and on a cluster whose GPUs somebody else offers."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from rehearsal.layout import NODE, Layout

pytestmark = [pytest.mark.rehearsal, pytest.mark.usefixtures("hosts_are_free")]

LAYOUT = Layout.from_environment()
NAME = "gpu-hosts"


@pytest.fixture(scope="module")
def inventory(run, tmp_path_factory):
    """Of the host, which has the name of the rehearsal's node in the cluster."""
    run("python", "-m", "rehearsal", "host", "up", NAME, "--release", "trixie")
    host = {"ansible_ssh_common_args": f"-F {LAYOUT.hosts}/ssh_config", "gpu_hosts_node": NODE}
    host |= {"ansible_python_interpreter": "/usr/bin/python3", "ansible_become": False}  # ssh comes as root
    here = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    groups = {"hosts": {"localhost": here}, "children": {"gpu_hosts": {"hosts": {NAME: host}}}}
    path = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {**groups, "vars": {"nim_kubeconfig": str(LAYOUT.kubeconfig)}}}))
    yield path
    run("python", "-m", "rehearsal", "host", "down", NAME)


def counts(done):
    recap = done.stdout.partition("PLAY RECAP")[2]
    return {name: dict(re.findall(r"(\w+)=(\d+)", rest)) for name, rest in re.findall(r"^(\S+)\s+: (.*)$", recap, re.M)}


def test_nothing_is_done_where_there_is_nothing_to_do(run, inventory):
    done = run("ansible-playbook", "-i", inventory, "playbooks/gpu_hosts.yml")
    assert {count["changed"] for count in counts(done).values()} == {"0"}
    (row,) = re.findall(rf"^ *{NODE} +-.*$", done.stdout, re.M)
    assert row.endswith("of 0")


def test_verify_only_looks_and_tells_machines(run, inventory, tmp_path):
    report = tmp_path / "report.json"
    options = ("--tags", "verify", "-e", f"gpu_hosts_report={report}")
    done = run("ansible-playbook", "-i", inventory, "playbooks/gpu_hosts.yml", *options)
    assert "allocatable" in done.stdout
    assert "Look at the host" in done.stdout
    assert "Device plugin" not in done.stdout
    told = json.loads(report.read_text())
    assert told["names"] == [NODE]
    assert [(host["os"]["id"], host["gpus"]) for host in told["hosts"]] == [("debian", [])]


def test_a_next_kernel_without_modules_is_named(run, inventory):
    """An upgrade brought a kernel, and DKMS did not build for it: seen before the boot that would show it."""
    host = ("python", "-m", "rehearsal", "host", "ssh", NAME)
    files = "/boot/vmlinuz-9.9.9-amd64 /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04"
    run(*host, f"touch {files}")
    said = run("ansible-playbook", "-i", inventory, "playbooks/gpu_hosts.yml", "--tags", "verify").stdout
    run(*host, f"rm {files}")
    assert f"{NAME}: its next boot starts kernel 9.9.9-amd64, for which there are no modules" in " ".join(said.split())


def test_a_host_that_was_not_looked_at_is_named(run, inventory):
    command = ("ansible-playbook", "-i", inventory, "playbooks/gpu_hosts.yml", "--limit", "localhost", "--tags")
    assert f"{NAME}: not looked at in this run" in run(*command, "verify").stdout
    refused = " ".join(run(*command, "plugin", rc=2).stdout.split())
    assert f"Not looked at in this run, since they failed or --limit left them out: {NAME}." in refused
