# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal cluster itself: it holds data, survives violence, and leaves the machine as it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import requests
import yaml

from rehearsal import system
from rehearsal.errors import RehearsalError
from rehearsal.layout import BRIDGE, PAUSE_IMAGE, SMALL_REQUESTS, Layout, url
from rehearsal.standins.ngc import KEYS
from rehearsal.supervision import Supervision

pytestmark = [pytest.mark.rehearsal, pytest.mark.usefixtures("hosts_are_free")]

LAYOUT = Layout.from_environment()
NAMESPACE = f"rehearsal-{os.getpid()}"
HOST = f"llama-{NAMESPACE}.example.com"


@pytest.fixture
def service(rehearsal):
    """A stand-in model behind KServe, made without the collection; gone afterwards."""
    yield lambda key="valid": rehearsal("kubectl", "apply", "-f", str(_manifest(key)))
    rehearsal("up")
    rehearsal("kubectl", "-n", NAMESPACE, "delete", "inferenceservice,pvc,secret", "--all", "--ignore-not-found")


def _manifest(key: str) -> Path:
    metadata = {"namespace": NAMESPACE}
    auths = {"auths": {"nvcr.io": {"username": "$oauthtoken", "password": KEYS[key]}}}
    resources = {"cpu": "100m", "memory": "128Mi", "nvidia.com/gpu": 1}
    container = {
        "name": "kserve-container",
        "image": "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0",
        "env": [{"name": "NGC_API_KEY", "value": KEYS[key]}, {"name": "NIM_CACHE_PATH", "value": "/mnt/models"}],
        "ports": [{"containerPort": 8000}],
        "volumeMounts": [{"name": "cache", "mountPath": "/mnt/models"}],
        "readinessProbe": {"httpGet": {"path": "/v1/health/ready", "port": 8000}, "periodSeconds": 1},
        "resources": {"requests": resources, "limits": resources},
    }
    documents = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**metadata, "name": "pull"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps(auths)},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {**metadata, "name": "model"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {**metadata, "name": "llama", "annotations": {"serving.kserve.io/autoscalerClass": "none"}},
            "spec": {
                "predictor": {
                    "securityContext": {"fsGroup": 1000},
                    "imagePullSecrets": [{"name": "pull"}],
                    "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "model"}}],
                    "containers": [container],
                }
            },
        },
    ]
    path = LAYOUT.state / "test-manifest.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def chat(text: str = "hello") -> str | None:
    body = {"model": "meta/llama3-8b-instruct", "messages": [{"role": "user", "content": text}], "max_tokens": 64}
    try:
        answer = requests.post(url("ingress") + "/v1/chat/completions", json=body, headers={"Host": HOST}, timeout=5)
        return answer.json()["choices"][0]["message"]["content"] if answer.ok else None
    except requests.RequestException:
        return None


def _is_ours(process: Path) -> bool:
    """Another cluster, in another network namespace, has other folders and another cgroup."""
    state, cgroup = str(LAYOUT.state).encode(), LAYOUT.cgroup.encode()
    said = [(process / name).read_bytes() for name in ("cmdline", "environ", "cgroup")]
    return state in said[0] or b"=" + state in said[1] or cgroup in said[2]


def left_behind() -> dict[str, list[str]]:
    """What of the rehearsal is to be seen on the machine outside its two folders."""
    processes = []
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()  # of other tests
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.name not in (*children, str(os.getpid())) and _is_ours(folder):
                processes.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    made = (LAYOUT.state / "made-folders").read_text().split()
    return {
        "processes": processes,
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(LAYOUT.state) in line],
        "links": [line for line in links.splitlines() if line.startswith((BRIDGE, "veth"))],
        "namespaces": [line for line in namespaces.splitlines() if line.startswith("cni-")],
        "cgroups": [str(folder) for folder in system.cgroup_folders(LAYOUT.cgroup) if folder.exists()],
        "folders": [folder for folder in made if Path(folder).exists()],
    }


def test_up_again_changes_nothing(rehearsal):
    rehearsal("up")
    before = {name: info["pid"] for name, info in Supervision(LAYOUT).states().items()}
    rehearsal("up")
    assert {name: info["pid"] for name, info in Supervision(LAYOUT).states().items()} == before


def test_down_leaves_nothing_even_under_running_pods(rehearsal, service, until):
    service()
    until(chat, "an answer")
    assert any("nim.py" in line for line in left_behind()["processes"]), "this test can't see the pod's process"
    rehearsal("down")
    assert left_behind() == {name: [] for name in left_behind()}
    assert rehearsal("status", rc=1).stdout.strip() == "down"


def test_killed_outright_it_comes_back_with_its_objects_and_data(rehearsal, service, until):
    service()
    until(chat, "an answer")
    volumes = list(LAYOUT.volumes.glob("*/ngc/hub/*"))
    assert volumes, "the model's cache is not on a volume"
    outer = int((LAYOUT.state / "pid").read_text())
    os.kill(outer, signal.SIGKILL)
    until(lambda: not left_behind()["processes"], "the end of every process", 10)
    rehearsal("up")
    until(chat, "an answer after the crash")
    assert list(LAYOUT.volumes.glob("*/ngc/hub/*")) == volumes


def test_a_volume_goes_with_its_claim(rehearsal, service, until):
    service()
    until(chat, "an answer")
    of_the_claim = ("-n", NAMESPACE, "get", "pvc", "model", "-o", "jsonpath={.spec.volumeName}")
    volume = LAYOUT.volumes / rehearsal("kubectl", *of_the_claim).stdout
    assert list(volume.glob("ngc/hub/*"))
    rehearsal("kubectl", "-n", NAMESPACE, "delete", "inferenceservice,pvc", "--all")
    until(lambda: not volume.exists(), "the end of the data")


def test_a_wrong_key_is_told_by_the_kubelet_in_the_words_of_the_real_one(rehearsal, service, until):
    service(key="expired")
    events = until(
        lambda: [
            line
            for line in rehearsal("kubectl", "-n", NAMESPACE, "get", "events", "-o", "wide").stdout.splitlines()
            # the kubelet may have looked before it had the secret, and asked without a key: `anonymous token`
            if "Failed to pull image" in line and "oauth token" in line
        ],
        "the pull's failure",
    )
    assert (
        "failed to authorize: failed to fetch oauth token: unexpected status from GET request to https://" in events[0]
    )
    assert (
        "proxy_auth?scope=repository%3Anim%2Fmeta%2Fllama3-8b-instruct%3Apull&service=registry: 401 Unauthorized"
        in (events[0])
    )


def test_the_answer_depends_on_the_question(rehearsal, service, until):
    service()
    first = until(chat, "an answer")
    assert "meta/llama3-8b-instruct" in first
    assert "hello" in first
    assert chat("good evening") != first


@pytest.mark.parametrize(("break_", "mend"), [("stop", "start"), ("freeze", "thaw")])
def test_a_part_can_be_broken_and_mended(rehearsal, break_, mend, until):
    rehearsal(break_, "scheduler")
    assert "NO ANSWER" in rehearsal("status", rc=1).stdout
    rehearsal(mend, "scheduler")
    until(lambda: rehearsal("status", rc=None).returncode == 0, "every part at work")


def test_a_fault_of_nim_reaches_the_container(rehearsal, service, until):
    rehearsal("fault", "nim", "--fail", "driver")
    service()
    until(
        lambda: (
            "NVIDIA Driver Release"
            in rehearsal("kubectl", "-n", NAMESPACE, "logs", "-l", "component=predictor", rc=None).stdout
        ),
        "NIM's words",
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("stop", "apisrver"), "there is no part 'apisrver'"),
        (("logs", "apisrver"), "there is no log of 'apisrver'"),
        (("fault", "tokn", "--status", "503"), "there is no target 'tokn'"),
        (("up", "--kserve", "0.15"), "there is no KServe 0.15 to run; there are 0.20.0, 0.16.0"),
        (("build", "aerna"), "there is no part 'aerna' to build"),
        (("fault", "token"), "say how it misbehaves"),
        (("fault", "nim", "--fail", "sulk"), "say how it fails"),
    ],
)
def test_bad_commands_say_what_would_be_right(rehearsal, arguments, says):
    assert says in rehearsal(*arguments, rc=1).stderr


def test_pods_of_any_size_fit_where_the_namespace_asks_for_it(new_namespace, kubectl, apply, until):
    small, plain = new_namespace("small"), new_namespace("plain")
    kubectl("label", "namespace", small, "=".join(SMALL_REQUESTS))
    sizes = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "1"}
    for namespace in (small, plain):
        container = {"name": "c", "image": PAUSE_IMAGE, "resources": {"requests": sizes, "limits": sizes}}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        metadata = {"name": "huge", "namespace": namespace}
        apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    kubectl("wait", "--for=condition=Ready", "pod/huge", "-n", small, "--timeout=60s")
    resources = json.loads(kubectl("get", "pod", "huge", "-n", small, "-o", "jsonpath={.spec.containers[0].resources}"))
    assert resources == {"limits": sizes, "requests": {"cpu": "10m", "memory": "16Mi", "nvidia.com/gpu": "1"}}
    why = ("get", "pod", "huge", "-n", plain, "-o", "jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}")
    assert "Insufficient cpu" in until(lambda: kubectl(*why), "the scheduler's word")


def test_what_others_have_mounted_is_not_emptied(tmp_path):
    folder, theirs = tmp_path / "state", tmp_path / "theirs"
    for made in (folder / "mounted", theirs):
        made.mkdir(parents=True)
    (theirs / "precious").touch()
    subprocess.run(["mount", "--bind", theirs, folder / "mounted"], check=True)
    try:
        with pytest.raises(RehearsalError, match=f"mounted something in it: {folder}/mounted"):
            system.remove_tree(folder)
    finally:
        subprocess.run(["umount", folder / "mounted"], check=True)
    assert (theirs / "precious").exists()
    system.remove_tree(folder)
    assert not folder.exists()
