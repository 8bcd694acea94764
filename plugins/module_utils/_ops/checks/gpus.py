# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Whether there is a place for each replica, and whether its GPUs are large enough for the model.

What the service's own pods hold counts as free for it: they go when the new ones come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, manifests, models, quantity, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks import admission, key
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok, unseen, warning
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Objects, Scene, Wanted

Object = Mapping[str, Any]
_ARCH = "kubernetes.io/arch"
_NAMED = 3  # nodes and pods in a message


@dataclass
class Places:
    """Where the replicas of each service would go: the name of a node for each; ``room``: what is left then."""

    found: dict[str, list[str]] = field(default_factory=dict)
    room: capacity.Room | None = None


def places(scene: Scene) -> Places:
    return cast(Places, scene.once("places", lambda: _places(scene)))


def _pod_of(scene: Scene, service: Wanted) -> Object:
    """What the scheduler will see: the cluster may add tolerations, and change requests."""
    if scene.missing(service.namespace):
        return service.pod
    try:
        return cast(Object, admission.admitted(scene, service)["spec"])
    except KubeError:
        return service.pod


def nodes_for(scene: Scene, service: Wanted) -> Objects:
    """The nodes that may take the service, whatever runs there: its rules, its image's architecture, its volumes."""

    def find() -> Objects:
        nodes = [node for node in scene.nodes() if capacity.candidates(_pod_of(scene, service), [node])]
        verdict = key.verdict_for(scene, service)
        built = verdict.facts.architectures if verdict and verdict.facts else ()
        if built:
            nodes = [n for n in nodes if _arch(n) in ("", *(word.rpartition("/")[2] for word in built))]
        for rule in _volume_rules(scene, service):
            nodes = [node for node in nodes if capacity.matches(rule, node)]
        return nodes

    return cast("Objects", scene.once(("nodes for", str(service)), find))


def _arch(node: Object) -> str:
    return str(node["metadata"]["labels"].get(_ARCH, ""))


def _volume_rules(scene: Scene, service: Wanted) -> Iterator[Sequence[Object]]:
    """Node selector terms of the volumes that the service's claims are bound to: a disk stays in its zone."""
    if not states.claims_of(service.isvc) or scene.missing(service.namespace):
        return
    try:
        claims = scene.claims(service.namespace)
        for name in states.claims_of(service.isvc):
            volume = ((claims.get(name) or {}).get("spec") or {}).get("volumeName")
            found = scene.get("v1", "PersistentVolume", volume) if volume else None
            terms = (((found or {}).get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
            if terms.get("nodeSelectorTerms"):
                yield terms["nodeSelectorTerms"]
    except Forbidden:
        return


def _places(scene: Scene) -> Places:
    """Those with the fewest nodes choose first, of them the largest, so that nobody takes the only place there is."""
    result = Places()
    own = {str(service) for service in scene.services}
    others = [pod for pod in _pods(scene) if not _of(pod, own)]
    nodes = {str(service): nodes_for(scene, service) for service in scene.services}
    every = {node["metadata"]["name"]: node for each in nodes.values() for node in each}
    room = result.room = capacity.Room(every.values(), others)
    order = sorted(scene.services, key=lambda s: (len(nodes[str(s)]), -sum(map(int, s.spec.devices.values()))))
    for service in order:
        name = str(service)
        resource = next(iter(service.spec.devices), "cpu")
        # the fullest node that still has room: what is whole stays whole for others
        tight = sorted(nodes[name], key=lambda node: room.free(node, resource))
        result.found[name] = [
            place for _pod in range(service.spec.scaling.least) if (place := room.take(_pod_of(scene, service), tight))
        ]
    return result


def _pods(scene: Scene) -> Objects:
    """What runs on the nodes that may take a service, and the services' own pods wherever they are."""
    own = {str(service) for service in scene.services}
    names = {node["metadata"]["name"] for service in scene.services for node in nodes_for(scene, service)}

    def keep(pod: dict[str, Any]) -> dict[str, Any] | None:
        short = capacity.short_pod(pod)
        return short if short["spec"]["nodeName"] in names or _of(short, own) else None

    return scene.list("v1", "Pod", fields=f"{capacity.NOT_OVER},spec.nodeName!=", keep=keep)


def _of(pod: Object, services: Iterable[str]) -> bool:
    meta = pod["metadata"]
    return f"{meta.get('namespace')}/{meta['labels'].get(manifests.ISVC_LABEL)}" in services


def check(scene: Scene) -> Iterator[Row]:
    nodes = scene.nodes()
    for service in scene.services:
        title = f"{service}"
        if capacity.in_doubt(_pod_of(scene, service)):
            said = "not checked: its rules between pods, or its scheduler, can't be judged from here"
            yield warning("gpus", title, said, "Look at what the scheduler says if its pods stay pending.")
            continue
        wanted = _devices(service)
        candidates = nodes_for(scene, service)
        if not candidates:
            yield _no_node(scene, service, nodes, wanted)
            continue
        try:
            found = places(scene).found[str(service)]
        except Forbidden as error:
            yield unseen("gpus", title, error)
            continue
        missing = service.spec.scaling.least - len(found)
        if missing:
            yield _full(scene, service, candidates, wanted, missing)
        else:
            counts = ", ".join(f"{n} ({c})" if c > 1 else n for n, c in Counter(found).items())
            yield ok("gpus", title, f"{wanted} free on {counts}" if found else f"{wanted}, once it is started")
            yield from _surge(scene, service, candidates)


def _devices(service: Wanted) -> str:
    devices = ", ".join(f"{count} {name}" for name, count in service.spec.devices.items())
    sizes = f"cpu {service.spec.cpu}, memory {service.spec.memory}"
    return f"{devices}, {sizes}" if devices else sizes


def _no_node(scene: Scene, service: Wanted, nodes: Objects, wanted: str) -> Row:
    """No node may take it, whatever runs there."""
    reasons: dict[str, list[str]] = {}
    for node in nodes:
        reason = capacity.refusal(_pod_of(scene, service), node) or _other_reason(scene, service, node)
        reasons.setdefault(reason, []).append(node["metadata"]["name"])
    lines = [f"{_some(names)}: {reason}" for reason, names in sorted(reasons.items(), key=lambda item: len(item[1]))]
    said = f"no node can take it ({wanted}). " + ("; ".join(lines) if lines else "The cluster has no nodes")
    remedy = _remedy(service, _pod_of(scene, service), nodes, reasons)
    if grower := scene.grows():
        return warning("gpus", str(service), said, f"If {grower} can't add one that fits: {remedy}")
    if _runs(scene, service):
        return warning("gpus", str(service), f"it runs, but once it is changed {said}", remedy)
    return failure("gpus", str(service), said, remedy)


def _runs(scene: Scene, service: Wanted) -> bool:
    """Whether all its pods have a node now: then only a change needs another place."""
    try:
        pods = _pods(scene)
    except Forbidden:
        return scene.live(service) is not None
    return sum(_of(pod, {str(service)}) for pod in pods) >= max(service.spec.scaling.least, 1)


def _other_reason(scene: Scene, service: Wanted, node: Object) -> str:
    verdict = key.verdict_for(scene, service)
    built = verdict.facts.architectures if verdict and verdict.facts else ()
    if built and _arch(node) and _arch(node) not in {word.rpartition("/")[2] for word in built}:
        return f"{_arch(node)}, and the image is for {', '.join(built)}"
    return "out of reach of the service's volume"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def _remedy(service: Wanted, pod: Object, nodes: Objects, reasons: Iterable[str]) -> str:
    """What to do: the one thing without which a node would fit, else what is wrong with a node."""

    def fits(**relaxed: Any) -> Objects:
        return [node for node in nodes if not capacity.refusal({**pod, **relaxed}, node)]

    for node in nodes:
        name = node["metadata"]["name"]
        if not capacity.refusal(pod, _well(node)):
            if node["spec"].get("unschedulable"):
                return f"`kubectl uncordon {name}`, if it may take pods again."
            return f"See what is wrong with it: `kubectl describe node {name}`."
    for node in fits(tolerations=[{"operator": "Exists"}]):
        taints = [capacity.taint_text(taint) for taint in capacity.untolerated(pod, node)]
        return f"If it may run there, set tolerations: {taints}."
    if fits(nodeSelector={}):
        words = []
        for name in pod.get("nodeSelector") or {}:
            values = {str(n["metadata"]["labels"][name]) for n in nodes if name in n["metadata"]["labels"]}
            words.append(f"nodes have {name}: {_some(sorted(values))}" if values else f"no node has a label {name}")
        return f"Correct node_selector ({'; '.join(words)}), or label a node."
    if fits(affinity={}):
        return "Correct affinity, or label a node."
    for reason in reasons:
        if reason.startswith("with too little "):
            return _too_little(service, nodes, reason.partition("little ")[2].partition(" ")[0])
    return "Add a node that fits."


def _well(node: Object) -> Object:
    """The node as if nothing was wrong with it."""
    taints = [t for t in node["spec"].get("taints") or () if not str(t.get("key")).startswith("node.kubernetes.io/")]
    ready = [{"type": "Ready", "status": "True"}]
    return {**node, "spec": {"taints": taints}, "status": {**node["status"], "conditions": ready}}


def _too_little(service: Wanted, nodes: Objects, resource: str) -> str:
    if resource not in service.spec.devices:
        return f"Ask for less {resource}, or add a larger node."
    largest = max((int(quantity.parse(_offers(node, resource))) for node in nodes), default=0)
    if largest:
        return f"No node has more than {largest} {resource}: ask for less, or add a larger node."
    gpus = {
        name
        for node in nodes
        for name in node["status"]["allocatable"]
        if ("gpu" in name or "/mig-" in name) and quantity.parse(_offers(node, name))
    }
    if gpus:
        return f"Set gpu_resource to what the nodes have: {', '.join(sorted(gpus))}."
    return f"Add a GPU node; if there is one, its device plugin must offer {resource} (`kubectl describe node`)."


def _offers(node: Object, resource: str) -> Any:
    return node["status"]["allocatable"].get(resource, 0)


def _full(scene: Scene, service: Wanted, candidates: Objects, wanted: str, missing: int) -> Row:
    """Nodes would take it, but others are there."""
    room = cast(capacity.Room, places(scene).room)
    resource = next(iter(service.spec.devices), "cpu")
    names = {node["metadata"]["name"] for node in candidates}
    holders = [
        f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
        for pod in _pods(scene)
        if pod["spec"].get("nodeName") in names
        and (capacity.requests(pod["spec"])[resource] or resource == "cpu")
        and not _of(pod, {str(service)})
    ]
    left = ", ".join(
        f"{node['metadata']['name']} has {max(room.free(node, resource), 0)} of {_offers(node, resource)} {resource}"
        for node in candidates[:_NAMED]
    )
    of = f"{missing} of {service.spec.scaling.least} replicas find" if service.spec.scaling.least > 1 else "it finds"
    said = f"{of} no room ({wanted}): {left} left"
    if len(candidates) > _NAMED:
        said += f", and {len(candidates) - _NAMED} more nodes are full"
    if holders:
        said += f"; held by {_some(holders)}"
    elif len(scene.services) > 1:
        said += "; the other services of this task take it"
    remedy = "Stop what is not needed (nim_kserve with state: stopped), ask for fewer replicas, or add a node."
    grower = scene.grows()
    lower = _lower(scene, service, names, resource)
    if grower or lower:
        way = f"{grower} may add a node" if grower else f"pods of lower priority may have to go: {_some(lower)}"
        return warning("gpus", str(service), f"{said}; {way}", remedy)
    if _runs(scene, service):
        return warning("gpus", str(service), f"it runs, but once it is changed {said}", remedy)
    return failure("gpus", str(service), said, remedy)


def _lower(scene: Scene, service: Wanted, nodes: Iterable[str], resource: str) -> list[str]:
    """Pods on the nodes that the service's priority class would push out."""
    name = service.spec.priority_class_name
    try:
        found = scene.get("scheduling.k8s.io/v1", "PriorityClass", name) if name else None
    except Forbidden:
        found = None
    if not found or found.get("preemptionPolicy") == "Never":
        return []
    value = int(found.get("value") or 0)
    return [
        f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
        for pod in _pods(scene)
        if pod["spec"].get("nodeName") in nodes
        and pod["spec"].get("priority", 0) < value
        and capacity.requests(pod["spec"])[resource]
    ]


def _surge(scene: Scene, service: Wanted, candidates: Objects) -> Iterator[Row]:
    """With update_strategy surge the old pod keeps its GPUs until the new one is ready; auto would do without."""
    if service.spec.update_strategy != "surge" or not scene.live(service):
        return
    pods = _pods(scene)
    if any(_of(pod, {str(service)}) for pod in pods) and not capacity.room(_pod_of(scene, service), candidates, pods):
        said = "no room for a second pod: with update_strategy surge a change would wait for it"
        yield warning("gpus", str(service), said, "Set update_strategy: auto, or in_place.")


# -- the model


def model_of(scene: Scene, service: Wanted) -> models.Model | None:
    """What is known of the model; nothing of an image that is too small to be a NIM, such as a stand-in."""
    verdict = key.verdict_for(scene, service)
    size = verdict.facts.size if verdict and verdict.facts else None
    return None if size is not None and size < models.GB else models.model_of(service.spec.image)


def sizes(scene: Scene) -> Iterator[Row]:
    """GPU memory, host memory and number of GPUs against what the model needs, on the best node that may take it."""
    for service in scene.services:
        model = model_of(scene, service)
        nodes = nodes_for(scene, service)
        kinds = {gpu: None for node in nodes if (gpu := models.gpu_of(node["metadata"]["labels"]))}
        if not service.spec.devices:
            yield ok("model", str(service), "no GPU is asked for")
        elif model is None:
            yield ok("model", str(service), "not judged: nothing is known of the model in this image")
        elif not kinds and not models.memory_for(service.spec.devices, None):
            yield ok("model", str(service), "not judged: no node that may take it says what GPU it has")
        else:
            gpu = max(kinds, key=lambda each: (each.memory, each.eight_bits), default=None)
            yield judge(service, model, gpu)
        driver = max((models.driver_of(node["metadata"]["labels"]) for node in nodes), default=0)
        if service.spec.devices and 0 < driver < models.OLDEST_DRIVER:
            said = f"the newest driver on nodes that may take it is {driver}; NIM wants {models.OLDEST_DRIVER} or later"
            yield warning("model", str(service), said, "Update the driver of the nodes.")


def judge(service: Wanted, model: models.Model, gpu: models.Gpu | None) -> Row:
    spec = service.spec
    count = sum(int(number) for name, number in spec.devices.items() if "gpu" in name or "/mig-" in name)
    has, title = models.memory_for(spec.devices, gpu), str(service)
    what = f"{count} x {gpu.product}" if gpu else ", ".join(f"{n} {name}" for name, n in spec.devices.items())
    least = model.least if gpu is None or gpu.eight_bits or not model.sure else model.half
    known = "" if model.sure else ", judged by its name"
    need = f"{model.name} ({model.billions:g} billion parameters{known}) has {least:g} to {model.half:g} GB of weights"
    said = f"{need}; {what} {'has' if count == 1 else 'have'} {has:.0f} GB"
    profile = models.profile_of(spec.settings.get("NIM_MODEL_PROFILE") or spec.env.get("NIM_MODEL_PROFILE") or "")
    more = f"Set gpus to a number that holds it{_seen(model)}, or use nodes with larger GPUs."
    if not has:
        return ok("model", title, f"not judged: {need}; the memory of {what} is not known")
    if profile and profile.gpus != count:
        said = f"profile {profile.name} is for {profile.gpus} GPUs, and gpus is {count}"
        return failure("model", title, said, f"Set gpus: {profile.gpus}, or another model_profile.")
    if profile and profile.gpu and gpu and not profile.fits(gpu):
        said = f"profile {profile.name} was made for {profile.gpu.upper()}, and the nodes have {gpu.product}"
        return warning("model", title, said, "Set another model_profile, or leave it out: NIM then chooses.")
    if has < least and model.sure:
        return failure("model", title, said, more)
    if has < model.half * 1.15:
        tight = "a small profile (FP8 or smaller) or a short context (NIM_MAX_MODEL_LEN) may fit"
        return warning("model", title, f"{said}: {tight}", more)
    host = 10 + quantity.parse(spec.share_memory or 0) / models.GB + 2 * quantity.parse(str(model.billions))
    if quantity.parse(spec.memory) / models.GB < host * quantity.parse("0.7"):
        rule = "10 GB, share_memory, and 2 GB for each billion of parameters"
        return warning("model", title, f"memory is {spec.memory}, the rule is {rule}: {host:.0f} GB", "Set memory.")
    return ok("model", title, said)


def _seen(model: models.Model) -> str:
    return f" ({' or '.join(map(str, model.gpus))} are in use)" if model.gpus else ""
