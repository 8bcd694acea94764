# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the faults about on the rehearsal cluster, as somebody would who has kubectl and not this collection."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rehearsal import cluster, toolchain
from rehearsal.layout import NODE, Layout
from rehearsal.standins import gpu, ngc

from .faults import BASE_CONTAINER, BASE_ENV, BASE_POD, IMAGE, KEY_SECRETS, PLACES, SECRETS, Fault

Object = dict[str, Any]
Faults = Sequence[Fault]
Scene = contextlib.AbstractContextManager[None]

OTHER_TAG = IMAGE.replace("1.0.0", "1.0.3")
NO_SUCH_TAG = IMAGE.replace("1.0.0", "1.0.9")


class Stage:
    """Namespaces of our own, one of each place, and the services in them."""

    def __init__(self, layout: Layout, prefix: str) -> None:
        self.layout = layout
        self.namespaces = {place: f"{prefix}-{place}" for place in PLACES}
        self._command = cluster.kubectl_command(layout, toolchain.ready(layout))
        self._made: list[str] = []  # objects of the whole cluster, as kind/name
        self.over = threading.Event()

    # -- the cluster
    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run([*self._command, *arguments], input=stdin, capture_output=True, text=True, timeout=200)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def apply(self, objects: Iterable[Object], manager: str = "") -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        more = [f"--field-manager={manager}"] if manager else []
        self.kubectl("apply", "--server-side", "--force-conflicts", *more, "-f", "-", stdin=text)

    def rehearsal(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "rehearsal", *arguments], check=True, capture_output=True, timeout=180)

    def get(self, kind: str, name: str, namespace: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def pods(self, fault: Fault) -> list[Object]:
        label = f"serving.kserve.io/inferenceservice={fault.name}"
        listed = self.kubectl("get", "pods", "-n", self.namespaces[fault.place], "-l", label, "-o", "json")
        return [pod for pod in json.loads(listed)["items"] if "deletionTimestamp" not in pod["metadata"]]

    def until(self, check: Callable[[], Any], what: str, seconds: float = 90) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.over.is_set():
            if answer := check():
                return answer
            self.over.wait(0.5)
        raise TimeoutError(f"{what}: not within {seconds:.0f} s")

    def until_ready(self, fault: Fault) -> None:
        name, namespace = f"inferenceservice/{fault.name}", self.namespaces[fault.place]
        self.kubectl("wait", name, "-n", namespace, "--for=condition=Ready", "--timeout=180s")

    # -- building up and taking down
    def build(self) -> None:
        """The namespaces and what lies in all of them."""
        objects: list[Object] = []
        for place, namespace in self.namespaces.items():
            about = PLACES[place]
            objects.append(_namespace(namespace, about.get("labels", {})))
            objects += _secrets(namespace)
            objects += self._named(about.get("objects", ()), "", namespace)
        self.apply(objects)

    def deploy(self, faults: Sequence[Fault]) -> None:
        """What they need, then the services, all at once."""
        before = [obj for fault in faults for obj in self._named(fault.objects, fault.name, self._namespace_of(fault))]
        if before:
            self.apply(before)
        for obj in before:
            if obj["kind"] == "Pod":  # it has to be the first
                meta = obj["metadata"]
                scheduled = "--for=condition=PodScheduled", "--timeout=30s"
                self.kubectl("wait", f"pod/{meta['name']}", "-n", meta["namespace"], *scheduled)
        self.apply(self.service(fault) for fault in faults)

    def service(self, fault: Fault, **containers: Any) -> Object:
        namespace = self._namespace_of(fault)
        env = {**BASE_ENV, **fault.env}
        container = {
            **BASE_CONTAINER,
            "image": fault.image,
            "env": [{"name": name, **value} for name, value in env.items() if value is not None],
            **fault.container,
            **containers,
        }
        pod = {**BASE_POD, **fault.pod}
        if fault.secret:
            pod["imagePullSecrets"] = [{"name": fault.secret}]
        if "model" not in pod:
            pod["containers"] = [{key: value for key, value in container.items() if value is not None}]
        annotations = {"serving.kserve.io/autoscalerClass": "none", **fault.annotations}
        service = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": fault.name, "namespace": namespace, "annotations": annotations},
            "spec": {"predictor": pod},
        }
        return self._named([service], fault.name, namespace)[0]

    def remove(self, faults: Sequence[Fault]) -> None:
        by_place = itertools.groupby(sorted(faults, key=lambda fault: fault.place), key=lambda fault: fault.place)
        for place, these in by_place:
            names = [fault.name for fault in these]
            namespace, more = self.namespaces[place], ("--ignore-not-found", "--wait=false")
            self.kubectl("delete", "inferenceservice", "-n", namespace, *more, *names)
            self.kubectl("delete", "pod", "-n", namespace, *more, *(f"{name}-holder" for name in names))

    def close(self) -> None:
        self.over.set()
        names = self.namespaces.values()
        self.kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *names)
        if self._made:
            self.kubectl("delete", "--ignore-not-found", "--wait=false", *self._made)

    def _namespace_of(self, fault: Fault) -> str:
        return self.namespaces[fault.place]

    def _named(self, objects: Iterable[Mapping[str, Any]], name: str, namespace: str) -> list[Object]:
        named: list[Object] = []
        for obj in objects:
            text = json.dumps(obj).replace("NAMESPACE", namespace)
            named.append(json.loads(re.sub(r"\bNAME\b", name, text)))
            made = f"{named[-1]['kind'].lower()}/{named[-1]['metadata']['name']}"
            if "namespace" not in named[-1]["metadata"] and made not in self._made:
                self._made.append(made)
        return named


def _namespace(name: str, labels: Mapping[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def pull_secret(
    namespace: str,
    name: str,
    key: str,
    host: str = "nvcr.io",
    username: str = ngc.USERNAME,
    type: str = "kubernetes.io/dockerconfigjson",
) -> Object:
    key = ngc.KEYS.get(key, key)
    login = base64.b64encode(f"{username}:{key}".encode()).decode()
    config = {"auths": {host: {"username": username, "password": key, "auth": login}}}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": type,
        "stringData": {".dockerconfigjson": json.dumps(config)},
    }


def _secrets(namespace: str) -> Iterator[Object]:
    for name, about in SECRETS.items():
        yield pull_secret(namespace, name, **about)
    for name, entry, kind in KEY_SECRETS:
        metadata = {"name": name, "namespace": namespace}
        data = {entry: ngc.KEYS.get(kind, kind)}
        yield {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


class Acts:
    """What goes on once a service is there; each runs in a thread of its own until the stage is over.

    Each says `here` when the fault has come about.
    """

    def __init__(self, stage: Stage, here: Callable[[], None]) -> None:
        self.stage, self.here = stage, here

    def mend_secret(self, fault: Fault) -> None:
        """After the third refusal, when the next try is 40 s away."""
        stage, namespace = self.stage, self.stage.namespaces[fault.place]

        def refused_thrice() -> bool:
            for pod in stage.pods(fault):
                about = f"involvedObject.name={pod['metadata']['name']},reason=Failed"
                listed = json.loads(
                    stage.kubectl("get", "events", "-n", namespace, f"--field-selector={about}", "-o", "json")
                )
                if any(event.get("count", 1) >= 3 and "pull" in event["message"] for event in listed["items"]):
                    return True
            return False

        stage.until(refused_thrice, "three refused pulls")
        stage.apply([pull_secret(namespace, fault.secret, "valid")])
        self.here()

    def ask(self, fault: Fault) -> None:
        self.stage.until_ready(fault)
        (pod,) = self.stage.pods(fault)
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}:8000/proxy"
        question = {"model": "meta/llama3-8b-instruct", "messages": [{"role": "user", "content": "Hello"}]}
        with contextlib.suppress(RuntimeError):  # the answer is the end of the connection
            self.stage.kubectl("create", f"--raw={path}/v1/chat/completions", "-f", "-", stdin=json.dumps(question))
        self.here()

    def new_tag(self, fault: Fault) -> None:
        self.stage.until_ready(fault)
        self.stage.apply([self.stage.service(fault, image=NO_SUCH_TAG)])
        self.here()

    def empty_service(self, fault: Fault) -> None:
        change = json.dumps({"spec": {"selector": {"app": "nobody"}}})
        namespace, name = self.stage.namespaces[fault.place], f"service/{fault.name}-predictor"
        self.stage.kubectl("patch", name, "-n", namespace, "--type=merge", "-p", change)
        self.here()

    def delete_deployment(self, fault: Fault) -> None:
        namespace = self.stage.namespaces[fault.place]
        self.stage.kubectl("delete", "deployment", f"{fault.name}-predictor", "-n", namespace)
        self.here()

    def edit_deployment(self, fault: Fault) -> None:
        self.stage.until_ready(fault)
        namespace, name = self.stage.namespaces[fault.place], f"deployment/{fault.name}-predictor"
        self.here()
        while not self.stage.over.wait(1):
            change = json.dumps({"spec": {"replicas": 3}})
            more = "--type=merge", "--field-manager=scaler", "-p", change
            with contextlib.suppress(RuntimeError):
                self.stage.kubectl("patch", name, "-n", namespace, *more)

    def edit_service(self, fault: Fault) -> None:
        self.stage.until_ready(fault)
        self.here()
        for turn in itertools.count():
            if self.stage.over.wait(1):
                return
            service = self.stage.service(fault)
            service["spec"]["predictor"]["maxReplicas"] = 1 + turn % 2
            with contextlib.suppress(RuntimeError):
                self.stage.apply([service], manager=("argocd-controller", "flux")[turn % 2])


class Scenes:
    """Each breaks the cluster, has the services of its faults there, and mends it in the end."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @contextlib.contextmanager
    def taint(self, faults: Faults) -> Iterator[None]:
        self.stage.kubectl("taint", "nodes", NODE, _TAINT)
        try:
            self.stage.deploy(faults)
            yield
        finally:
            self.stage.kubectl("taint", "nodes", NODE, f"{_TAINT}-")

    @contextlib.contextmanager
    def cordon(self, faults: Faults) -> Iterator[None]:
        self.stage.kubectl("cordon", NODE)
        try:
            self.stage.deploy(faults)
            yield
        finally:
            self.stage.kubectl("uncordon", NODE)

    @contextlib.contextmanager
    def no_device_plugin(self, faults: Faults) -> Iterator[None]:
        gone = [{"op": "remove", "path": f"/status/{part}/nvidia.com~1gpu"} for part in ("capacity", "allocatable")]
        patch = "patch", f"node/{NODE}", "--subresource=status"
        self.stage.kubectl(*patch, "--type=json", "-p", json.dumps(gone))
        try:
            self.stage.deploy(faults)
            yield
        finally:
            self.stage.kubectl(*patch, "-p", json.dumps(gpu.resources()))

    @contextlib.contextmanager
    def surge(self, faults: Faults) -> Iterator[None]:
        self._ready(faults)
        self.stage.apply(self.stage.service(fault, image=OTHER_TAG) for fault in faults)
        yield

    def registry_429(self, faults: Faults) -> Scene:
        return self._registry(faults, ngc.Fault(status=429, retry_after=60))

    def registry_500(self, faults: Faults) -> Scene:
        return self._registry(faults, ngc.Fault(status=500))

    def registry_hangs(self, faults: Faults) -> Scene:
        return self._registry(faults, ngc.Fault(hang=True))

    @contextlib.contextmanager
    def _registry(self, faults: Faults, how: ngc.Fault) -> Iterator[None]:
        ngc.set_fault(self.stage.layout.ngc_state, "registry", how)
        try:
            self.stage.deploy(faults)
            yield
        finally:
            ngc.clear(self.stage.layout.ngc_state)

    @contextlib.contextmanager
    def no_scheduler(self, faults: Faults) -> Iterator[None]:
        with self._without("scheduler"):
            self.stage.deploy(faults)
            yield

    @contextlib.contextmanager
    def no_controllers(self, faults: Faults) -> Iterator[None]:
        with self._without("controller-manager"):
            self.stage.deploy(faults)
            yield

    @contextlib.contextmanager
    def no_kserve(self, faults: Faults) -> Iterator[None]:
        """Its webhook refuses new services then, so they are there already when something happens to them."""
        self._ready(faults)
        with self._without("kserve"):
            for fault in faults:
                getattr(Acts(self.stage, lambda: None), fault.act)(fault)
            yield

    @contextlib.contextmanager
    def node_lost(self, faults: Faults) -> Iterator[None]:
        self._ready(faults)
        with self._without("kubelet"):
            yield

    @contextlib.contextmanager
    def _without(self, part: str) -> Iterator[None]:
        self.stage.rehearsal("stop", part)
        try:
            yield
        finally:
            self.stage.rehearsal("up")

    def _ready(self, faults: Faults) -> None:
        self.stage.deploy(faults)
        for fault in faults:
            self.stage.until_ready(fault)


_TAINT = "nvidia.com/gpu=present:NoSchedule"
