# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.hosts` from the root of the checkout: the host phases of gpu_hosts.yml where nothing changes.

One Debian system stands for all hosts: each has a name and an ssh connection of its own to it. So the work that the
hosts of a fleet would do beside each other is done by the one machine that is the controller as well.
With ``--deepops`` its role for the same toolkit is run on that system as well, out of a checkout of NVIDIA/deepops.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rehearsal import hosts, packages
from rehearsal.layout import Layout
from rehearsal.progress import Progress

from .contenders import ROOT

HOST = "bench"
PREPARE = "apt-get -qq update && apt-get -qq install --no-install-recommends containerd && mkdir -p /etc/containerd &&"
PREPARE += " containerd config default > /etc/containerd/config.toml && systemctl restart containerd &&"
# as many may log in at once as there are forks
PREPARE += " echo MaxStartups 300 > /etc/ssh/sshd_config.d/bench.conf && systemctl reload ssh"


@dataclass(frozen=True)
class Run:
    seconds: float
    tasks: int  # of the first host, those that were run
    changed: int


class Bench:
    def __init__(self, layout: Layout, folder: Path) -> None:
        self.layout, self.folder = layout, folder

    def play(self, playbook: str | Path, count: int, forks: int, *options: str, **variables: Any) -> Run:
        """Raises RuntimeError with what it said."""
        inventory = self.folder / "inventory.json"
        common = {
            "ansible_host": HOST,
            "ansible_ssh_common_args": f"-F {self.layout.hosts}/ssh_config",
            "ansible_control_path": f"{self.folder}/{{{{ inventory_hostname }}}}",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,  # it is root, and there is no sudo
            "container_toolkit_mirror": packages.ADDRESS,
            "container_toolkit_key_fingerprint": packages.fingerprint(self.layout),
            "container_toolkit_require_gpu": False,
            "container_toolkit_cdi": "if_possible",
            **variables,
        }
        names: dict[str, Any] = {f"h{number:03}": {} for number in range(count)}
        inventory.write_text(json.dumps({"all": {"children": {"gpu_hosts": {"hosts": names, "vars": common}}}}))
        program = [f"{sys.prefix}/bin/ansible-playbook", f"--inventory={inventory}", f"--forks={forks}"]
        began = time.monotonic()
        done = subprocess.run(
            [*program, *options, str(playbook)],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(f"{playbook}: {done.stdout[-3000:]}{done.stderr[-1000:]}")
        told = re.search(r"^h000 +: ok=(\d+) +changed=(\d+)", done.stdout, re.M)
        assert told
        return Run(seconds, int(told[1]), int(told[2]))

    def ours(self, count: int, forks: int) -> Run:
        tags = "--tags=driver,toolkit"
        return self.play("playbooks/gpu_hosts.yml", count, forks, tags, "--extra-vars=gpu_hosts_serial=100%")

    def toolkit(self, state: str = "present") -> Run:
        playbook = self._playbook("gpuops.nim.container_toolkit", facts=False)
        return self.play(playbook, 1, 5, container_toolkit_state=state)

    def deepops(self, checkout: Path) -> Run:
        """It takes what it is told to be Ubuntu for Ubuntu."""
        playbook = self._playbook(str(checkout / "roles" / "nvidia_container_toolkit"), facts=True)
        given = {"ansible_distribution": "Ubuntu", "nvidia_container_toolkit_configure_docker": False}
        url = {"nvidia_container_toolkit_repo_base_url": packages.ADDRESS}
        return self.play(playbook, 1, 5, f"--extra-vars={json.dumps(given)}", **url)

    def _playbook(self, role: str, *, facts: bool) -> Path:
        path = self.folder / "play.yml"
        path.write_text(yaml.safe_dump([{"hosts": "gpu_hosts", "gather_facts": facts, "roles": [role]}]))
        return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hosts", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10, 50, 100])
    parser.add_argument("--forks", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--deepops", type=Path, help="a checkout of NVIDIA/deepops")
    given = parser.parse_args()
    layout, progress = Layout.from_environment(), Progress()
    with tempfile.TemporaryDirectory() as folder:
        packages.up(layout, progress)
        hosts.up(layout, progress, HOST, "trixie")
        try:
            subprocess.run([*hosts.ssh_command(layout, HOST), PREPARE], stdin=subprocess.DEVNULL, check=True)
            _report(Bench(layout, Path(folder)), given)
        finally:
            hosts.down(layout, HOST)
            packages.down(layout)
    return 0


def _report(bench: Bench, given: argparse.Namespace) -> None:
    def show(what: str, run: Run, each: int = 1) -> None:
        told = f"{run.seconds:.1f} s, {run.seconds / each:.2f} s a host, {run.tasks} tasks, {run.changed} changed"
        print(f"{what}: {told}, load {os.getloadavg()[0]:.1f}", flush=True)

    show("container_toolkit, first run", bench.toolkit())
    show("container_toolkit, no change", bench.toolkit())
    for forks in given.forks:
        for count in given.hosts:
            show(f"gpu_hosts.yml, no change, {count} hosts, {forks} forks", bench.ours(count, forks), count)
    if given.deepops:
        bench.toolkit("absent")
        show("DeepOps, first run", bench.deepops(given.deepops))
        show("DeepOps, no change", bench.deepops(given.deepops))


if __name__ == "__main__":
    sys.exit(main())
