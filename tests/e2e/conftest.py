# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of whole playbooks take from the modules' tests: namespaces of their own, and looks at the cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearsal import cluster, images, toolchain
from rehearsal.layout import Layout
from rehearsal.progress import Progress
from tests import elsewhere
from tests.elsewhere import Elsewhere
from tests.integration.conftest import (  # noqa: F401
    apply,
    arena,
    kubectl,
    monitoring_crds,
    name_namespace,
    new_namespace,
    objects,
    optional_part,
    until_fixture,
)

IMAGES = "nvcr.io/rehearsal"  # the rehearsal's registry as its node calls it


@dataclass(frozen=True)
class Bare(Elsewhere):
    """A rehearsal cluster of its own, without KServe and GPUs, in a network namespace without a way out."""

    _run: Callable[..., subprocess.CompletedProcess[str]]

    def run(self, *command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        """As the fixture `run`, in there."""
        ours = {**self.environment, "K8S_AUTH_KUBECONFIG": str(self.layout.kubeconfig)}
        return self._run(*self.inside, *command, env={**ours, **more.pop("env", {})}, **more)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        command = [*self.inside, *cluster.kubectl_command(self.layout, toolchain.ready(self.layout))]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def get(self, *what: str) -> dict[str, Any]:
        return json.loads(self.kubectl("get", *what, "-o", "json"))

    def manifests(self, release: str) -> Path:
        """KServe's own, as they are published."""
        return toolchain.build(self.layout, Progress(), "kserve-manifests").folders["kserve-manifests"] / release

    @contextlib.contextmanager
    def serving(self, folder: Path) -> Iterator[str]:
        """A mirror in there: the address of a folder's files."""
        command = [*self.inside, sys.executable, "-u", "-m", "http.server", "0", "--bind=127.0.0.1"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                said = process.stdout.readline().decode()
                yield re.search(r"\((http://.*)/\)", said)[1]
            finally:
                process.terminate()

    def role(
        self, name: str, *modes: str, rc: int = 0, env: Mapping[str, str] | None = None, **variables: Any
    ) -> tuple[str, dict[str, int]]:
        """Plays a role on the controller; its output, and the counts of the recap."""
        with tempfile.TemporaryDirectory() as folder:
            play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": [f"gpuops.nim.{name}"]}
            play["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}", **variables}
            Path(folder, "play.yml").write_text(yaml.safe_dump([play]))
            command = ("ansible-playbook", "-i", "localhost,", *modes, Path(folder, "play.yml"))
            done = self.run(*command, rc=rc, env=env or {})
        counts = re.findall(r"(\w+)=(\d+)", done.stdout.partition("PLAY RECAP")[2])
        return done.stdout + done.stderr, {word: int(count) for word, count in counts}

    def of_kserve(self, release: str = "v0.20.0") -> dict[str, str]:
        """The role kserve's variables for what a bare cluster has."""
        return {
            "kserve_manifests": str(self.manifests(release) / "kserve.yaml"),
            "kserve_image_registry": IMAGES,
            "kserve_ingress_class": "contour",
        }

    def kserve(self, *modes: str, release: str = "v0.20.0", rc: int = 0, **more: Any) -> tuple[str, dict[str, int]]:
        """Plays the role kserve with them."""
        return self.role("kserve", *modes, rc=rc, **{**self.of_kserve(release), **more})

    @contextlib.contextmanager
    def process(self, *command: str | Path, env: Mapping[str, str] | None = None) -> Iterator[None]:
        """A program that runs in there meanwhile. Says its last words where it ended by itself."""
        with (
            tempfile.TemporaryFile("w+") as log,
            subprocess.Popen(
                [*self.inside, *command], env={**os.environ, **(env or {})}, stdout=log, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                yield
                log.seek(0)
                assert process.poll() is None, log.read()[-2000:]
            finally:
                process.terminate()


@pytest.fixture(scope="session")
def bare(run) -> Iterator[Bare]:
    layout = Layout.from_environment()
    toolchain.build(layout, Progress(), *images.PARTS)
    images.fetch(layout, Progress())
    with elsewhere.cluster("--bare") as here:
        yield Bare(here.layout, here.inside, run)
