# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of nim_kserve that arena has not, and serving runtimes: what the cluster really has and does then."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading

import pytest
import trustme

from rehearsal.layout import BRIDGE_ADDRESS, LOOPBACK, PORTS, Layout, url
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
NEWER = "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.3.0"
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}
ISVC = "serving.kserve.io/inferenceservice"


@pytest.fixture(scope="module")
def space(play, new_namespace):
    """A namespace with both Secrets."""
    namespace = new_namespace("options")
    play({"gpuops.nim.nim_secret": {"namespace": namespace, "ngc_api_key": KEYS["valid"]}})
    return namespace


@pytest.fixture(scope="module")
def kserve(space):
    """The task."""

    def kserve(**options):
        ingress = url("ingress").removeprefix("http://")
        return {"gpuops.nim.nim_kserve": {"namespace": space, "ingress_address": ingress, **SMALL, **options}}

    return kserve


def pods_of(name, objects, space):
    """The living ones."""
    return {
        pod["metadata"]["name"]: pod["spec"]
        for pod in objects("pods", space).values()
        if pod["metadata"]["labels"][ISVC] == name and "deletionTimestamp" not in pod["metadata"]
    }


# -- what only shows in the pod, on a node that is not there


ENDS_LATER = {"preStop": {"sleep": {"seconds": 3}}}
NOWHERE = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "no-such-label", "operator": "Exists"}]}]}


@pytest.fixture(scope="module")
def pod(play, kserve, objects, space, apply, until):
    """The pod of a service with all of them."""
    apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": space}, "handler": "runc"})
    zone = {"topologyKey": "topology.kubernetes.io/zone"}
    options = {
        "image": NEWER,
        "arguments": ["--more"],
        "priority_class_name": "system-cluster-critical",
        "runtime_class_name": space,
        "scheduler_name": "other-scheduler",
        "termination_grace_period": 7,
        "pre_stop_sleep": 3,
        "startup_timeout": 60,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": NOWHERE}},
        "topology_spread_constraints": [zone],
        "gpu_resource": "nvidia.com/mig-1g.10gb",
        "gpus": 2,
        "cache": {"claim": "whole", "size": "1Gi", "sub_path": "llama/8b"},
        "model_profile": "vllm-fp16-tp1",
        "pod_proxy": {"https": "http://proxy.example.com:3128", "no_proxy": ["mirror.example.com"]},
    }
    task = kserve(name="pod", wait=False, **options)
    first, second = play(task, task).results
    assert (first["changed"], second["changed"]) == (True, False)
    (found,) = until(lambda: pods_of("pod", objects, space), "the pod").values()
    return found


def test_where_and_how_the_pod_runs(pod, space):
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert (pod["runtimeClassName"], pod["schedulerName"]) == (space, "other-scheduler")
    assert (pod["terminationGracePeriodSeconds"], pod["containers"][0]["lifecycle"]) == (7, ENDS_LATER)
    assert pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (spread,) = pod["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
    assert spread["labelSelector"] == {"matchLabels": {ISVC: "pod"}}


def test_what_its_container_has(pod):
    (container,) = pod["containers"]
    assert container["args"] == ["--more"]
    assert container["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "2"
    assert {"name": "nim-cache", "mountPath": "/mnt/models", "subPath": "llama/8b"} in container["volumeMounts"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 60
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env["NIM_MODEL_PROFILE"] == "vllm-fp16-tp1"
    assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://proxy.example.com:3128"
    assert env["NO_PROXY"] == env["no_proxy"] == "mirror.example.com,localhost,127.0.0.1,.svc,.cluster.local"
    assert "HTTP_PROXY" not in env


# -- objects beside the service


METRIC = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}


@pytest.mark.usefixtures("monitoring_crds")
def test_an_autoscaler_and_a_pod_monitor_come_change_and_go(play, kserve, objects, space, until):
    def beside():
        return {kind: objects(kind, space).get(f"extras{suffix}") for kind, suffix in names.items()}

    names = {"hpa": "-hpa", "podmonitor": "-podmonitor", "servicemonitor": "-svcmonitor", "service": "-metric-svc"}
    plain = {"name": "extras", "image": IMAGE, "node_selector": {"no-such": "node"}, "wait": False}
    down = {"scaleDown": {"stabilizationWindowSeconds": 300}}
    scaled = {"max_replicas": 3, "autoscaling": {"metrics": [METRIC], "behavior": down}}
    scaled |= {"scale_metric": "gpu_cache_usage_perc", "scale_target": 0.5}
    monitored = {"enable_prometheus": True, "metrics_port": 8002, "monitor_labels": {"release": "prometheus"}}

    play(kserve(**plain, **scaled, **monitored, monitor="pod"))
    made = beside()
    pods, cpu = made["hpa"]["spec"]["metrics"]
    assert pods["pods"]["target"] == {"type": "AverageValue", "averageValue": "500m"}
    assert cpu == METRIC
    assert made["hpa"]["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert made["podmonitor"]["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = made["podmonitor"]["spec"]["podMetricsEndpoints"]
    (pod,) = until(lambda: pods_of("extras", objects, space), "the pod").values()
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert (endpoint["path"], ports[endpoint["port"]]) == ("/metrics", 8002)
    assert not made["service"]
    assert "extras-predictor" not in objects("hpa", space)

    assert play(kserve(**plain, **monitored)).result["changed"]
    changed = beside()
    assert not changed["hpa"]
    assert not changed["podmonitor"]
    assert changed["servicemonitor"]["metadata"]["labels"]["release"] == "prometheus"
    off, again = play(kserve(**plain), kserve(**plain)).results
    assert (off["changed"], again["changed"]) == (True, False)
    assert not any(beside().values())


def test_other_files_start_new_pods_and_nothing_else_does(play, kserve, objects, kubectl, space):
    def task(content):
        return kserve(name="files", image=IMAGE, config_files=[{"path": "/etc/nim/extra.yaml", "content": content}])

    def pod():
        (name,) = pods_of("files", objects, space)
        return name

    def read(pod):
        program = "import sys; sys.stdout.write(open('/etc/nim/extra.yaml').read())"
        return kubectl("exec", "-n", space, pod, "--", "python3", "-c", program)

    play(task("a: 1\n"))
    first = pod()
    assert read(first) == "a: 1\n"
    again, changed = play(task("a: 1\n"), task("a: 2\n")).results
    assert (again["changed"], changed["changed"]) == (False, True)
    second = pod()
    assert second != first
    assert read(second) == "a: 2\n"
    play(kserve(name="files", state="absent"))
    assert "files-files" not in objects("configmap", space)


# -- a serving runtime


def test_a_model_of_a_serving_runtime_is_waited_for_and_answers(play, kserve, objects, apply, run, space):
    container = {
        "name": "kserve-container",
        "image": IMAGE,
        "ports": [{"containerPort": 8000, "protocol": "TCP"}],
        "env": [{"name": "NIM_CACHE_PATH", "value": "/mnt/models/cache"}, {"name": "NIM_LOG_LEVEL", "value": "DEBUG"}],
    }
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "of-the-runtime", "namespace": space}
    apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
    formats = [{"name": "nvidia-nim-llama3", "version": "1", "autoSelect": True}]
    metadata = {"name": "nim-runtime", "namespace": space}
    spec = {"supportedModelFormats": formats, "containers": [container]}
    apply({"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "metadata": metadata, "spec": spec})

    def task(**more):
        uri = "pvc://of-the-runtime/"
        return kserve(name="model", model_format="nvidia-nim-llama3", storage_uri=uri, **more)

    made, again, changed = play(task(), task(), task(runtime_version="1.0.3", env={"NIM_LOG_LEVEL": "INFO"})).results
    assert [result["changed"] for result in (made, again, changed)] == [True, False, True]
    assert {result["services"][0]["state"] for result in (made, again, changed)} == {"ready"}
    (pod,) = pods_of("model", objects, space).values()
    (main,) = pod["containers"]
    env = {variable["name"]: variable.get("value") for variable in main["env"]}
    assert main["image"] == IMAGE.replace("1.0.0", "1.0.3")
    assert (env["NIM_CACHE_PATH"], env["NIM_LOG_LEVEL"]) == ("/mnt/models/cache", "INFO")
    assert main["startupProbe"]["httpGet"]["path"] == "/v1/health/ready"
    host = changed["services"][0]["host"]
    body = {"model": "meta/llama3-8b-instruct", "messages": [{"role": "user", "content": "Hello"}]}
    ask = ("-H", "Content-Type: application/json", "-d", json.dumps(body), f"{url('ingress')}/v1/chat/completions")
    assert '"choices"' in run("curl", "-s", "-H", f"Host: {host}", *ask).stdout


# -- a mirror of NGC, of a CA that no image knows


@pytest.fixture
def mirror():
    """Its address, and the CA that signed its certificate."""
    authority, layout = trustme.CA(), Layout.from_environment()
    inside, outside = ssl.create_default_context(cafile=layout.ca), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(BRIDGE_ADDRESS).configure_cert(outside)
    listener = socket.create_server((BRIDGE_ADDRESS, 0))
    threading.Thread(target=_serve, args=(listener, outside, inside), daemon=True).start()
    yield f"https://{BRIDGE_ADDRESS}:{listener.getsockname()[1]}", authority.cert_pem.bytes().decode()
    listener.close()


def _serve(listener, outside, inside):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_mirror, args=(connection, outside, inside), daemon=True).start()


def _mirror(connection, outside, inside):
    """Passes one connection on to the rehearsal's NGC."""
    with contextlib.suppress(OSError):
        theirs = outside.wrap_socket(connection, server_side=True)
        ours = inside.wrap_socket(socket.create_connection((LOOPBACK, PORTS["ngc"])), server_hostname=LOOPBACK)
        threading.Thread(target=_copy, args=(ours, theirs), daemon=True).start()
        _copy(theirs, ours)


def _copy(source, target):
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


def test_a_private_ca_is_trusted_beside_those_of_the_image(play, kserve, kubectl, objects, mirror, space, until):
    address, authority = mirror
    kubectl("create", "configmap", "company-ca", "-n", space, f"--from-literal=ca.crt={authority}")
    given = {"image": NEWER, "repository_override": address}
    bundle = {"config_map": "company-ca"}
    tasks = kserve(name="stranger", **given, wait=False), kserve(name="trusts", **given, ca_bundle=bundle)
    assert play(*tasks).result["services"][0]["state"] == "ready"

    def refused():
        for name in pods_of("stranger", objects, space):
            (status,) = objects("pods", space)[name]["status"].get("containerStatuses") or [{}]
            if status.get("restartCount"):
                return "UnknownIssuer" in kubectl("logs", "-n", space, name, "--previous")
        return False

    until(refused, "the stranger to be refused by its own list of CAs", seconds=120)
    (name,) = pods_of("trusts", objects, space)
    program = "import os; print(open(os.environ['SSL_CERT_FILE']).read(), os.getuid())"
    bundle = kubectl("exec", "-n", space, name, "--", "python3", "-c", program)
    assert bundle.count("BEGIN CERTIFICATE") == 2
    assert bundle.endswith(" 1000\n")
