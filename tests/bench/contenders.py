# SPDX-License-Identifier: GPL-3.0-or-later
"""The three ways to deploy: how each is started, and by what the API server's audit log knows it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rehearsal import cluster, toolchain
from rehearsal.layout import Layout
from tests.peer import PEER

from .work import ADDRESS, QUESTION, Work

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OURS, KUBECTL = "gpuops.nim", "kubectl"
AGENTS = {OURS: "gpuops.nim", PEER: "OpenAPI-Generator/", KUBECTL: "kubectl"}  # how their user agents begin


@dataclass(frozen=True)
class Start:
    """A process to measure."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contenders:
    """``folder``: where the files of each piece of work are written; ``peer``: an `ansible_collections` path."""

    layout: Layout
    folder: Path
    peer: Path

    def start(self, name: str, work: Work) -> Start:
        folder = self.folder / work.namespace
        folder.mkdir(parents=True, exist_ok=True)
        if name == KUBECTL:
            (folder / "manifests.yaml").write_text(work.as_yaml())
            (folder / "question.json").write_text(json.dumps(QUESTION))
            (folder / "hosts").write_text("\n".join([*work.hosts, ""]))
            program = cluster.kubectl_command(self.layout, toolchain.ready(self.layout))
            environment = {
                "KUBECTL": " ".join(program),
                "NAMESPACE": work.namespace,
                "ADDRESS": ADDRESS,
                "PATIENCE": str(work.patience),
            }
            return Start([str(HERE / "playbooks" / "kubectl.sh"), str(folder)], environment)
        (folder / "variables.json").write_text(json.dumps(work.variables()))
        playbook = HERE / "playbooks" / f"{name.replace('gpuops.nim', 'ours').replace('.', '_')}.yml"
        program = [f"{sys.prefix}/bin/ansible-playbook", "--inventory=localhost,", "--connection=local"]
        environment = {
            "ANSIBLE_COLLECTIONS_PATH": f"{ROOT / 'collections'}{os.pathsep}{self.peer}",
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
            "ANSIBLE_STDOUT_CALLBACK": "stamps",
            "K8S_AUTH_KUBECONFIG": str(self.layout.kubeconfig),
            "NGC_API_KEY": work.key,
        }
        return Start([*program, f"--extra-vars=@{folder / 'variables.json'}", str(playbook)], environment)
