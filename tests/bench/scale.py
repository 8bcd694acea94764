# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.scale` from the root of the checkout: the preflight on a cluster of thousands of nodes.

The nodes and pods are objects alone: what the preflight reads is what etcd holds, and no kubelet would change that. So
the cluster must be one for this alone, without the controllers that would take such nodes for lost; they are stopped
first, and the objects stay (`python -m rehearsal down --purge`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS, connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Conflict
from rehearsal.layout import Layout
from rehearsal.standins.ngc import KEYS

from .contenders import ROOT, Start
from .meter import measure

Json = dict[str, Any]
NAMESPACE = "scale"
GPUS_EACH = 8
GPU_NODES = 10  # one node of so many has GPUs
TOGETHER = 16
WEIGHT = 1500  # characters that stand for a pod's status, which a new object can't have
CONTROLLERS = ("controller-manager", "scheduler")


def node(number: int) -> Json:
    """As large as those of a cloud: 10 kB, most of it the list of images."""
    gpus = number % GPU_NODES == 0
    name = f"scale-{number:05}"
    labels = {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name}
    labels |= {f"topology.example.com/level-{level}": f"value-{number % 7}" for level in range(10)}
    size = {"cpu": "96", "memory": "512Gi", "pods": "110", "ephemeral-storage": "900Gi"}
    if gpus:
        labels |= {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
        size["nvidia.com/gpu"] = str(GPUS_EACH)
    kinds = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    conditions = [{"type": kind, "status": str(kind == "Ready"), "reason": "Kubelet", "message": ""} for kind in kinds]
    images = [
        {
            "names": [
                f"registry.example.com/team/image-{each}@sha256:{each:064}",
                f"registry.example.com/team/image-{each}:1.0",
            ],
            "sizeBytes": 10**9,
        }
        for each in range(50)
    ]
    taints = [{"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}] if gpus else []
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints},
        "status": {"capacity": size, "allocatable": size, "conditions": conditions, "images": images},
    }  # fmt: skip


def pod(number: int, nodes: int) -> Json:
    """4 to 5 kB, on a node. All GPUs but those of the last GPU node are taken."""
    place = number % nodes
    last = place >= nodes - GPU_NODES
    takes = {"nvidia.com/gpu": "2"} if place % GPU_NODES == 0 and not last else {}
    resources = {"requests": {"cpu": "1", "memory": "2Gi", **takes}, "limits": {"memory": "2Gi", **takes}}
    containers = [
        {
            "name": f"container-{each}",
            "image": f"registry.example.com/team/image-{each}:1.0",
            "env": [{"name": f"VARIABLE_{each}", "value": f"value-{each}" * 3} for each in range(12)],
            "resources": resources if each == 0 else {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
        }
        for each in range(2)
    ]
    metadata = {
        "name": f"pod-{number:06}",
        "namespace": NAMESPACE,
        "labels": {"app": f"app-{number % 100}", "pod-template-hash": "5d8c7b9f6c"},
        "annotations": {"example.com/status": "x" * WEIGHT},
    }
    spec = {"nodeName": f"scale-{place:05}", "containers": containers, "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def fill(layout: Layout, nodes: int, pods: int) -> None:
    """Make what is not there yet."""
    client = connect({**dict.fromkeys(AUTH_ARGUMENTS), "kubeconfig": str(layout.kubeconfig)})

    def make(obj: Json) -> None:
        with contextlib.suppress(Conflict):
            client.create(obj)
        if obj["kind"] == "Node":  # a new one gets a taint until its kubelet is ready
            client.patch(obj, {"spec": {"taints": obj["spec"]["taints"]}})

    make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    make({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE}})
    with ThreadPoolExecutor(TOGETHER) as pool:
        for _ in pool.map(make, (node(number) for number in range(nodes))):
            pass
        for _ in pool.map(make, (pod(number, nodes) for number in range(pods))):
            pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=20000)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    layout = Layout.from_environment()
    for part in CONTROLLERS:
        subprocess.run([sys.executable, "-m", "rehearsal", "stop", part], cwd=ROOT, check=True)
    fill(layout, given.nodes, given.pods)
    variables = {"nim_predictor_namespace": "scale-preflight", "nim_predictor_service_defaults": {
        "cpu": "8", "memory": "32Gi", "share_memory": "16Gi", "ingress_address": "127.0.0.1:18080",
        "tolerations": ["nvidia.com/gpu=true:NoSchedule"], "gpus": GPUS_EACH,
        "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}}  # fmt: skip
    program = [f"{sys.prefix}/bin/ansible-playbook", "playbooks/preflight.yml", "-e", json.dumps(variables)]
    runs = [measure(layout, Start(program, {"NGC_API_KEY": KEYS["valid"]}), "gpuops.nim") for _ in range(given.times)]
    print(runs[-1].output)
    seconds, memory = [run.seconds for run in runs], [run.memory for run in runs]
    print(f"{given.nodes} nodes, {given.pods} pods, {given.times} runs of playbooks/preflight.yml")
    print(f"  seconds: median {median(seconds):.1f}, {min(seconds):.1f} to {max(seconds):.1f}")
    print(f"  memory:  at most {max(memory):.0f} MiB, Ansible included")
    print(f"  requests: {runs[-1].requests}, of them writing: {runs[-1].writes}; exit status {runs[-1].rc}")
    return runs[-1].rc


if __name__ == "__main__":
    sys.exit(main())
