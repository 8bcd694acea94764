# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Room for the image on the node, and for the model on its claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._nim import models, quantity, states
from ansible_collections.gpuops.nim.plugins.module_utils._nim.options.volumes import Cache
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks import gpus, key
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok, unseen, warning
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Objects, Scene, Wanted

Object = dict[str, Any]

# containerd keeps the compressed layers beside the unpacked ones, which are about twice as large
UNPACKED = 3
_ASKED = 8  # nodes, those with the largest disks: a pool of hundreds has the same disk everywhere
_KUBELET_SECONDS = 2.0
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_OLD_DEFAULT_CLASS = "storageclass.beta.kubernetes.io/is-default-class"
_MANY = {"ReadWriteMany", "ReadOnlyMany"}


def images(scene: Scene) -> Iterator[Row]:
    """The node's disk: its size, whether the kubelet finds it too full and, if it may be asked, what is free."""
    for service in scene.services:
        nodes = gpus.nodes_for(scene, service)
        if not nodes or not service.spec.image:
            continue
        title = f"{service}"
        with_it = [node for node in nodes if service.spec.image in node["status"]["images"]]
        fit = [node for node in nodes if not _full(node)]
        if not fit:
            names = ", ".join(node["metadata"]["name"] for node in nodes[:3])
            said = f"every node that may take it is short of disk (DiskPressure): {names}"
            remedy = "Make room there: `crictl rmi --prune`, or a larger disk; 100 GB and more for the images of NIM."
            yield failure("image", title, said, remedy)
            continue
        verdict = key.verdict_for(scene, service)
        size = verdict.facts.size if verdict and verdict.facts else None
        if size is None:
            yield ok("image", title, "not judged: how large the image is could not be found out")
            continue
        need = size * UNPACKED
        said = f"{size / models.GB:.1f} GB compressed, about {need / models.GB:.1f} GB on the node"
        sizes = {node["metadata"]["name"]: _disk(node) for node in fit}
        largest = max(sizes.values())
        if with_it:
            yield ok("image", title, f"already on {with_it[0]['metadata']['name']}")
        elif largest and need > largest:
            remedy = "Use nodes with a larger disk for containers; 100 GB and more for the images of NIM."
            said += f", and no node that may take it has more than {largest / models.GB:.1f} GB for containers"
            yield failure("image", title, said, remedy)
        elif free := _free(scene, sorted(sizes, key=lambda name: -sizes[name])[:_ASKED]):
            yield room(title, said, need, free, len(fit))
        elif largest and need > largest / 2:
            remedy = "Look at what is free there: `kubectl describe node`, or df on the node."
            yield warning("image", title, f"{said}, of at most {largest / models.GB:.1f} GB for containers", remedy)
        else:
            yield ok("image", title, f"{said}; up to {largest / models.GB:.0f} GB for containers")


def room(title: str, said: str, need: float, free: Mapping[str, float], nodes: int) -> Row:
    """The row about what is free: a warning, no failure, since the kubelet removes unused images when it must.

    :param need: bytes. free: bytes by node, of those of all ``nodes`` that said it.
    """
    roomiest = max(free, key=lambda name: free[name])
    said += f"; {free[roomiest] / models.GB:.1f} GB are free on {roomiest}"
    if need <= free[roomiest]:
        return ok("image", title, said)
    if nodes > 1:
        said += f", the most of {nodes} nodes" if len(free) == nodes else f", the most of {len(free)} of {nodes} nodes"
    remedy = "Make room there: `crictl rmi --prune`. The kubelet removes unused images only if the disk is nearly full."
    return warning("image", title, said, remedy)


def _free(scene: Scene, names: Sequence[str]) -> dict[str, float]:
    """Bytes that are free for images, by node, of the nodes that say: a kubelet may be away, or not ours to ask.

    It is asked through nodes/proxy, a right that comes close to root on the node and is not to be given for this.
    """

    def ask(name: str) -> float | None:
        path = f"/api/v1/nodes/{name}/proxy/stats/summary"
        try:
            node = scene.client.request("GET", path, timeout=_KUBELET_SECONDS, retry=False).json()["node"]
            return float(((node.get("runtime") or {}).get("imageFs") or node["fs"])["availableBytes"])
        except (KubeError, KeyError, TypeError, ValueError):
            return None

    with ThreadPoolExecutor(_ASKED, thread_name_prefix="kubelet") as pool:
        asked = zip(names, pool.map(lambda name: scene.once(("free", name), lambda: ask(name)), names))
        return {name: free for name, free in asked if free is not None}


def _full(node: Mapping[str, Any]) -> bool:
    return any(c["type"] == "DiskPressure" and c["status"] == "True" for c in node["status"]["conditions"])


def _disk(node: Mapping[str, Any]) -> float:
    """Bytes of the disk for containers; 0 if the node doesn't say."""
    return float(quantity.parse(node["status"]["allocatable"].get("ephemeral-storage", "0")))


# -- claims


def claims(scene: Scene) -> Iterator[Row]:
    for service in scene.services:
        cache = service.spec.cache
        names = states.claims_of(service.isvc)
        missing = scene.missing(service.namespace)
        there = {} if missing or not names else scene.claims(service.namespace)
        for name in dict.fromkeys(names):
            title = f"claim {service.namespace}/{name}"
            option = service.spec.claims.get(name, "pod_patch")
            if name in there:
                yield from _existing(scene, service, there[name])
            elif cache and cache.claim == name and cache.size:
                yield _to_be_made(scene, service, cache, cache.size, title)
            else:
                right = "Make it, or set cache.size to have it made." if option == "cache.claim" else "Make it first."
                yield failure("storage", title, f"there is no such claim, but {service} names it ({option})", right)
        if not names:
            yield from _on_the_node(scene, service)


def _to_be_made(scene: Scene, service: Wanted, cache: Cache, size: str, title: str) -> Row:
    classes = {each["metadata"]["name"]: each for each in scene.list("storage.k8s.io/v1", "StorageClass")}
    name = cache.storage_class or next((n for n, c in classes.items() if _is_default(c)), "")
    if name not in classes:
        there = f"there are: {', '.join(sorted(classes))}" if classes else "there is none at all"
        if cache.storage_class:
            remedy = "Correct cache.storage_class, or make that class."
            return failure("storage", title, f"there is no storage class {name}; {there}", remedy)
        remedy = "Set cache.storage_class, or mark a class as the default."
        return failure("storage", title, f"the cluster has no default storage class; {there}", remedy)
    said = f"{size} of storage class {name}, to be made"
    return _judged(scene, service, title, said, size, cache.access_modes)


def _is_default(each: Mapping[str, Any]) -> bool:
    notes = each["metadata"].get("annotations") or {}
    return "true" in (notes.get(_DEFAULT_CLASS), notes.get(_OLD_DEFAULT_CLASS))


def _existing(scene: Scene, service: Wanted, claim: Object) -> Iterator[Row]:
    name, status, spec = claim["metadata"]["name"], claim.get("status") or {}, claim["spec"]
    title = f"claim {service.namespace}/{name}"
    size = str((status.get("capacity") or {}).get("storage") or (spec.get("resources") or {})["requests"]["storage"])
    phase = status.get("phase")
    if "deletionTimestamp" in claim["metadata"]:
        yield failure("storage", title, "it is being deleted", "Wait until it is gone, or use another.")
    elif phase == "Lost":
        remedy = "Its volume is gone, and the models with it: delete the claim, and have it made again."
        yield failure("storage", title, "it has lost its volume", remedy)
    elif phase == "Bound":
        yield _judged(scene, service, title, f"{size}, bound", size, spec.get("accessModes") or ())
    else:
        yield _pending(scene, service, title, claim, size)


def _pending(scene: Scene, service: Wanted, title: str, claim: Object, size: str) -> Row:
    """Until a pod wants it is what WaitForFirstConsumer means; of any other class a claim should be bound."""
    name = claim["spec"].get("storageClassName") or ""
    try:
        classes = {each["metadata"]["name"]: each for each in scene.list("storage.k8s.io/v1", "StorageClass")}
    except Forbidden as error:
        return unseen("storage", title, error, "It is not bound: look at its events.")
    look = f"Look at what keeps it: `kubectl -n {service.namespace} describe pvc {claim['metadata']['name']}`."
    if name and name not in classes:
        return failure("storage", title, f"it is not bound, and there is no storage class {name}", look)
    if name and classes[name].get("volumeBindingMode") == "WaitForFirstConsumer":
        said = f"{size} of storage class {name}, to be bound when the first pod wants it"
        return _judged(scene, service, title, said, size, claim["spec"].get("accessModes") or ())
    return warning("storage", title, "it is not bound", look)


def _judged(scene: Scene, service: Wanted, title: str, said: str, size: str, modes: Any) -> Row:
    """A claim that there will be: large enough, and for as many nodes as replicas need."""
    replicas = max(service.spec.scaling.least, service.spec.scaling.most or 0)
    if replicas > 1 and "ReadWriteOncePod" in modes:
        remedy = "Use a claim with ReadWriteMany, or one replica."
        return failure("storage", title, f"{said}; ReadWriteOncePod is for one pod, and {replicas} are wanted", remedy)
    model = gpus.model_of(scene, service)
    has = float(quantity.parse(size)) / models.GB
    mine = service.spec.cache and service.spec.cache.claim == title.rpartition("/")[2]
    if model and mine and model.sure and has < model.least:
        need = f"the weights of {model.name} alone have {model.least:g} GB"
        remedy = f"Take a larger claim: {model.disk:.0f} GB for the weights and what is made of them."
        return failure("storage", title, f"{said}; {need}", remedy)
    if replicas > 1 and not _MANY & set(modes):
        remedy = "Use ReadWriteMany (cache.access_modes), or keep all replicas on one node."
        return warning(
            "storage", title, f"{said}; {', '.join(modes)} is for one node, and {replicas} replicas are wanted", remedy
        )
    if model and mine and has < model.half * 1.15:
        remedy = f"{model.disk:.0f} GB hold the weights and what is made of them (4 GB for each billion of parameters)."
        return warning("storage", title, f"{said}; {model.name} has up to {model.half:g} GB of weights", remedy)
    return ok("storage", title, f"{said}, {', '.join(modes)}")


def _on_the_node(scene: Scene, service: Wanted) -> Iterator[Row]:
    """Without a claim the model is loaded anew by every pod, onto the node's disk."""
    model = gpus.model_of(scene, service)
    nodes: Objects = gpus.nodes_for(scene, service)
    largest = max((_disk(node) for node in nodes), default=0) / models.GB
    if model and largest and model.sure and model.least > largest:
        said = f"no claim, and {model.name} ({model.least:g} GB) is more than a node's disk ({largest:.0f} GB)"
        yield failure("storage", str(service), said, "Set cache.")
    else:
        yield ok("storage", str(service), "no claim: every new pod loads the model anew, onto its node's disk")
