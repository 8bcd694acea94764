# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules' tests share: small playbooks, namespaces of their own, and what the API server saw of them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpuops.nim.tests.integration.api_proxy import RESET, ApiProxy
from rehearsal import cluster, toolchain
from rehearsal.layout import GPUS, Layout
from rehearsal.progress import Progress
from rehearsal.standins.ngc import KEYS

LAYOUT = Layout.from_environment()
NUMBERS = itertools.count(1)
CALLBACKS = Path(__file__).parent / "callback"
ALL_AT_ONCE = ("unshare", "--pid", "--fork", "--kill-child")
# what Ansible adds to the result of a task that ran in the background
OF_ASYNC = {"ansible_job_id", "finished", "started", "results_file", "stdout", "stdout_lines", "stderr", "stderr_lines"}
OF_ASYNC |= {"invocation"}

Json = dict[str, Any]
Task = dict[str, Any]


@dataclass(frozen=True)
class Played:
    """One run of ansible-playbook. `ended` is the wall clock's time."""

    results: list[Json]
    stderr: str
    ended: float

    @property
    def result(self) -> Json:
        return self.results[-1]


PLAY = {
    "hosts": "localhost",
    "connection": "local",
    "gather_facts": False,
    "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
    # the rehearsal's Envoy hears of a pod's end within a second, and a hundred pods end in the tests
    "module_defaults": {"gpuops.nim.nim_kserve": {"pre_stop_sleep": 1}},
}


@pytest.fixture(scope="session")
def play(run, tmp_path_factory) -> Callable[..., Played]:
    """Runs tasks in one playbook: `play(task, task, check=True, diff=True, fails=False, env={...})`.

    A task that fails does not stop the next. Fails itself unless all tasks failed (`fails=True`), none did
    (`fails=False`) or anything goes (`fails=None`); unless stdout holds the results as JSON and nothing else; and when
    a key shows anywhere.
    """
    folder = tmp_path_factory.mktemp("playbooks")

    def play(*tasks: Task, check=False, diff=False, fails: bool | None = False, env=None) -> Played:
        playbook = folder / f"{len(list(folder.iterdir()))}.yml"
        playbook.write_text(yaml.safe_dump([{**PLAY, "ignore_errors": True, "tasks": list(tasks)}]))
        ours = {
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_STDOUT_CALLBACK": "json_lines",
            "K8S_AUTH_KUBECONFIG": str(LAYOUT.kubeconfig),
            "NGC_API_KEY": KEYS["valid"],
        }
        modes = [f"--{name}" for name, wanted in (("check", check), ("diff", diff)) if wanted]
        done = run("ansible-playbook", "-i", "localhost,", *modes, playbook, env={**ours, **(env or {})})
        played = Played([json.loads(line) for line in done.stdout.splitlines()], done.stderr, time.time())
        assert len(played.results) == len(tasks), done.stdout + done.stderr
        for text in (done.stdout, done.stderr):
            assert not [form for form in TRACES if form in text]
        if fails is not None:
            assert [result.get("failed", False) for result in played.results] == [fails] * len(tasks), done.stdout
        return played

    return play


def _base64_forms(text: str) -> set[str]:
    """What base64 of any text that holds this one has in it, wherever it starts there."""
    whole = (base64.b64encode(b"\0" * offset + text.encode()).decode() for offset in range(3))
    return {form[(offset * 8 + 5) // 6 : (offset + len(text)) * 8 // 6] for offset, form in enumerate(whole)}


_INNER = _base64_forms("nvapi-rehearsal-")  # how all keys begin
# plain, in a Secret or a docker config, and a docker config in a Secret
TRACES = {"nvapi-rehearsal-", *_INNER, *(form for inner in _INNER for form in _base64_forms(inner))}


@pytest.fixture
def another_python(pytestconfig, tmp_path) -> tuple[str, Callable[[], int]]:
    """An interpreter that is not Ansible's own, and how often it was started."""
    python, starts = tmp_path / "python", tmp_path / "starts"
    starts.touch()
    python.write_text(f'#!/bin/sh\necho >> {starts}\nexec {pytestconfig.getoption("another_python")} "$@"\n')
    python.chmod(0o755)
    return str(python), lambda: len(starts.read_text().splitlines())


def _without(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(inner, names) for name, inner in value.items() if name not in names}
    return [_without(inner, names) for inner in value] if isinstance(value, list) else value


@pytest.fixture
def in_all_ways(play, another_python):
    """`in_all_ways(task, check=..., volatile=[...])`: the task's result, after it was the same in every way of running,
    apart from what has a volatile name, however deep inside.

    Those are Ansible's own process, another interpreter and, where nothing is only checked, the background.
    """

    def in_all_ways(task: Task, *, check=False, volatile=(), **more) -> Json:
        python, starts = another_python
        before = starts()
        elsewhere = [{**task, "vars": {"ansible_python_interpreter": python}}]
        if not check:  # Ansible refuses both at once
            elsewhere.append({**task, "async": 60, "poll": 1, "vars": {"ansible_python_interpreter": python}})
        results = play(task, *elsewhere, check=check, **more).results
        assert starts() >= before + len(elsewhere)
        first, *others = [
            {name: _without(value, volatile) for name, value in result.items() if name not in OF_ASYNC | set(volatile)}
            for result in results
        ]
        for other in others:
            assert other == first
        return results[0]

    return in_all_ways


@pytest.fixture
def proxy(tmp_path):
    with ApiProxy(LAYOUT) as proxy:
        path = tmp_path / "kubeconfig"
        path.write_text(proxy.kubeconfig)
        proxy.environment = {"K8S_AUTH_KUBECONFIG": str(path)}
        yield proxy


@pytest.fixture
def killed(proxy, tmp_path):
    """`killed(tasks, when, what)`: plays them and kills -9 all of Ansible at the first request that `what` says.

    `when` is before the API server sees it or after it has done it. The request, or None if there was no such.
    """

    def killed(tasks, when, what):
        playbook = tmp_path / "playbook.yml"
        playbook.write_text(yaml.safe_dump([{**PLAY, "tasks": list(tasks)}]))
        hit = []

        def strike(method, path):
            if hit or not what(method, path):
                return None
            hit.append(f"{method} {path.partition('?')[0]}")
            process.kill()
            return RESET

        setattr(proxy, when, strike)
        process = subprocess.Popen(
            # its workers have sessions of their own: only a PID namespace ends them all at the same moment
            [*ALL_AT_ONCE, Path(sys.prefix) / "bin" / "ansible-playbook", "-i", "localhost,", playbook],
            env={**os.environ, **proxy.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output = process.communicate(timeout=120)[0]
        setattr(proxy, when, lambda method, path: None)
        assert process.returncode == (-signal.SIGKILL if hit else 0), output
        return hit[0] if hit else None

    return killed


@dataclass
class Audit:
    """What our client asked the API server: `verb URI`, apart from discovery."""

    requests: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def audit():
    """`with audit("namespace") as seen: ...`, and then `seen.writes` are the requests that were to change something."""

    @contextlib.contextmanager
    def audit(namespace: str) -> Iterator[Audit]:
        seen, start = Audit(), LAYOUT.audit_log.stat().st_size
        yield seen
        with LAYOUT.audit_log.open("rb") as log:
            log.seek(start)
            for line in log:
                event = json.loads(line)
                uri = event["requestURI"]
                if event.get("userAgent") != "gpuops.nim" or f"/namespaces/{namespace}" not in uri:
                    continue
                seen.requests.append(f"{event['verb']} {uri}")
                if event["verb"] not in ("get", "list", "watch") and "dryRun=All" not in uri:
                    seen.writes.append(seen.requests[-1])

    return audit


@pytest.fixture(scope="session")
def kubectl() -> Callable[..., str]:
    """`kubectl("get", "pods", "-n", "x", stdin="...")`: an independent look at the cluster, as its administrator."""
    command = cluster.kubectl_command(LAYOUT, toolchain.ready(LAYOUT))

    def kubectl(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    return kubectl


@pytest.fixture(scope="session")
def objects(kubectl):
    """`objects("pods", "namespace")`: all of a kind in a namespace, by name."""

    def objects(kind: str, namespace: str) -> dict[str, Json]:
        items = json.loads(kubectl("get", kind, "-n", namespace, "-o", "json"))["items"]
        return {item["metadata"]["name"]: item for item in items}

    return objects


@pytest.fixture(scope="session")
def apply(kubectl):
    """Makes an object as somebody else would, without the collection."""
    return lambda obj: kubectl("apply", "-f", "-", stdin=yaml.safe_dump(obj))


@pytest.fixture(scope="module")
def name_namespace(kubectl):
    """`name_namespace("a")`: the name of a namespace that nobody else has. What is made of it goes in the end."""
    names: list[str] = []

    def name_namespace(purpose: str) -> str:
        # another file may have used the word, and its namespace may still be ending
        names.append(f"{purpose}-{os.getpid()}-{next(NUMBERS)}")
        return names[-1]

    yield name_namespace
    if names:
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *names)


@pytest.fixture(scope="module")
def new_namespace(name_namespace, kubectl):
    """The same, and it exists."""

    def new_namespace(purpose: str) -> str:
        name = name_namespace(purpose)
        kubectl("create", "namespace", name)
        return name

    return new_namespace


@pytest.fixture
def free_gpus(kubectl) -> int:
    """How many GPUs no pod has, once those that are ending are gone: other tests' pods may be."""

    def of(kind: str) -> list[Json]:
        return json.loads(kubectl("get", kind, "-A", "-o", "json"))["items"]

    def held() -> list[tuple[int, bool]]:
        """Of each pod: its GPUs, and whether it is ending."""
        ending = {each["metadata"]["name"] for each in of("namespaces") if each["status"]["phase"] == "Terminating"}
        return [
            (
                sum(
                    int(each["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
                    for each in pod["spec"]["containers"]
                ),
                "deletionTimestamp" in pod["metadata"] or pod["metadata"]["namespace"] in ending,
            )
            for pod in of("pods")
        ]

    until(lambda: not any(gpus for gpus, ends in held() if ends), "the GPUs of pods that are ending")
    return GPUS - sum(gpus for gpus, _ in held())


@pytest.fixture(scope="session")
def optional_part() -> Callable[[str], Path]:
    """`optional_part("arena")`: the folder of a part that `up` does not build."""
    return lambda name: toolchain.build(LAYOUT, Progress(), name).folders[name]


@pytest.fixture(scope="session")
def arena(run, optional_part, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`arena("serve", "kserve", "--name=llama", ..., rc=0)`: the original's tool, with the cluster's own kubectl."""
    folder, home = optional_part("arena"), tmp_path_factory.mktemp("arena")
    (home / "bin").mkdir()
    (home / "bin" / "arena-kubectl").symlink_to(toolchain.ready(LAYOUT).program("kubernetes", "kubectl"))
    (home / "charts").symlink_to(folder / "charts")  # where it looks for them
    ours = {
        "HOME": str(home),
        "KUBECONFIG": str(LAYOUT.kubeconfig),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    return lambda *arguments, **more: run(folder / "arena", *arguments, env=ours, **more)


@pytest.fixture(scope="module")
def monitoring_crds(optional_part, kubectl):
    """The cluster knows the Prometheus operator's ServiceMonitor and PodMonitor; no operator acts on them."""

    def known() -> int:
        return len(kubectl("api-resources", "--api-group=monitoring.coreos.com", "-o", "name").split())

    files = [f"--filename={path}" for path in optional_part("monitoring").glob("*.yaml")]
    kubectl("apply", "--server-side", *files)
    until(lambda: known() == len(files), "the API server to offer them")
    yield
    kubectl("delete", "--ignore-not-found", *files)
    until(lambda: not known(), "the API server to forget them")


@pytest.fixture
def rehearsal(run):
    """`rehearsal("freeze", "apiserver", rc=0)`. Afterwards the cluster is up and behaves, whatever the test did."""

    def rehearsal(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return run(sys.executable, "-m", "rehearsal", *arguments, **more)

    yield rehearsal
    rehearsal("fault", "--clear")
    rehearsal("up")


def until(check: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := check():
            return answer
        time.sleep(0.2)
    pytest.fail(f"{what}: not within {seconds:.0f} s", pytrace=False)


@pytest.fixture(name="until", scope="session")
def until_fixture():
    return until
