# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Where a service is, judged from the objects of the cluster alone.

*Ready* means that this specification is up: KServe says so, the Deployment has taken the specification over and rolled
it out to the last pod, and the new pods are ready. An old pod that still answers proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from . import contract, quantity
from .names import ASIDE_ANNOTATION, CONTAINER, MODE_ANNOTATION, SCALER_ANNOTATION, VISIBILITY_LABEL

Object = Mapping[str, Any]

STATES = ("absent", "stopped", "scheduling", "pulling", "starting", "loading", "ready", "failed")
REVISION = "deployment.kubernetes.io/revision"
TEMPLATE_HASH = "pod-template-hash"

PULL_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
CRASH_REASON = "CrashLoopBackOff"
RECONCILE_FAILED = "ReconcileFailed"  # of PredictorReady, since KServe 0.17

# KServe keeps these out of the pod template (kserve pkg/constants, besides the lists in its ConfigMap).
_NOT_PROPAGATED = frozenset(
    {
        "autoscaling.knative.dev/min-scale",
        "autoscaling.knative.dev/max-scale",
        "internal.serving.kserve.io/storage-initializer-sourceuri",
        "kubectl.kubernetes.io/last-applied-configuration",
        "modelFormat",
        VISIBILITY_LABEL,
        MODE_ANNOTATION,
        SCALER_ANNOTATION,
        "app",
    }
)
_ADDED_ENV = frozenset({"INFERENCE_SERVICE_NAME"})  # by KServe's controller, to the Deployment only


@dataclass(frozen=True)
class Observed:
    """What the cluster holds for one service; ``events`` are those of its pods."""

    isvc: Object | None = None
    deployment: Object | None = None
    replicasets: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()


@dataclass(frozen=True)
class Status:
    """``phases``: seconds that each step of the slowest new pod took (scheduled, pulled, started, ready); a step
    without a record is missing. ``current``: the Deployment holds the wanted specification, so its newest pods are
    what is waited for.
    """

    state: str
    detail: str
    ready: bool = False
    current: bool = False
    phases: Mapping[str, float] = field(default_factory=dict)
    revision: str = ""


def status_of(
    wanted: Object | None, seen: Observed, ignored: frozenset[str] = frozenset(), *, settled: bool = False
) -> Status:
    """Judge one service.

    :param wanted: the InferenceService as it should be, best as the server answered it; ``None`` takes the live one.
    :param ignored: keys of labels and annotations that KServe is told not to copy into pods.
    :param settled: nothing has moved for a while. What differs in a Deployment that was written since the specification
        was is then a policy's doing (Kyverno's and others' change Deployments, too), not what KServe has yet to do.
    """
    isvc = seen.isvc
    if isvc is None:
        return Status("absent", "there is no InferenceService")
    if condition(isvc, "Stopped").get("status") == "True":
        return Status("stopped", "stopped on request")
    model = isvc.get("status", {}).get("modelStatus", {})
    if model.get("transitionStatus") == "InvalidSpec":
        return Status(
            "failed",
            f"KServe refuses the specification: {model.get('lastFailureInfo', {}).get('message') or 'no reason given'}",
        )

    deployment = seen.deployment
    if deployment is None:
        refusal = condition(isvc, "PredictorReady")
        why = (
            f": {refusal.get('reason')}: {refusal.get('message')}"
            if refusal.get("status") == "False" and refusal.get("message")
            else ""
        )
        return Status("scheduling", f"KServe has not made the Deployment yet{why}")
    behind = differences(wanted or isvc, deployment, ignored)
    if behind and not (settled and _taken_over(wanted or isvc, isvc, deployment)):
        return Status(
            "scheduling",
            (
                "KServe has not taken over the new specification yet "
                f"({', '.join(behind[:3])}{', …' if len(behind) > 3 else ''})"
            ),
        )
    spec, status = deployment.get("spec", {}), deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return Status("scheduling", "Kubernetes has not taken over the Deployment yet")

    revision, new = newest(seen)
    replicas = spec.get("replicas", 1)
    if replicas == 0:
        return Status("stopped", "scaled to 0 replicas", revision=revision)
    steps = [_pod_state(pod, seen.events) for pod in new]
    if len(new) < replicas:
        held = condition(deployment, "ReplicaFailure")
        old = [pod for pod in seen.pods if pod not in new and _counts(pod)]
        detail = held.get("message") or (
            f"waits for the old pod {old[0]['metadata']['name']}" if old else "its pods have not been made yet"
        )
        steps.append(("scheduling", detail))
    state, detail = min(steps, key=lambda step: STATES.index(step[0]))
    phases = _phases(new, seen.events)

    def judged(state: str, detail: str) -> Status:
        return Status(state, detail, state == "ready", current=True, phases=phases, revision=revision)

    if state != "ready":
        if state == "loading" and not contract.contract_for(_image(deployment)).port_opens_before_loaded:
            detail += "; its port opens once the model is loaded"
        return judged(state, detail)

    missing = _unfinished(isvc, status, replicas, [pod for pod in seen.pods if pod not in new])
    if missing:
        return judged("loading", f"the new pods are ready; {missing}")
    policy = f"; what differs in the Deployment is a policy's: {', '.join(behind)}" if behind else ""
    return judged("ready", f"{replicas} of {replicas} pods are ready{policy}")


def written(obj: Object) -> datetime | None:
    """When what is wanted of an object was last written; entries of a subresource are its status, or a scaler's."""
    entries = obj["metadata"].get("managedFields") or ()
    stamps = [obj["metadata"].get("creationTimestamp")]
    stamps += [entry.get("time") for entry in entries if not entry.get("subresource")]
    return max((at for at in map(moment, stamps) if at), default=None)


def _taken_over(wanted: Object, isvc: Object, deployment: Object) -> bool:
    """Whether the Deployment was written for this very specification, whatever a policy has made of it.

    Times have whole seconds, so the images have to be right as well: a policy may put a mirror before them, or a digest
    behind them.
    """
    asked, made = written(isvc), written(deployment)
    if wanted["metadata"].get("generation") != isvc["metadata"].get("generation"):
        return False  # somebody else has written it since
    if asked is None or made is None or made < asked:
        return False
    live = {each.get("name"): _short(each) for each in deployment["spec"]["template"]["spec"].get("containers", ())}
    containers = wanted["spec"]["predictor"].get("containers", ())
    return all(
        _short(each) in (live.get(each.get("name")), live.get(each.get("name"), "").partition("@")[0])
        for each in containers
    )


def _short(container: Object) -> str:
    return str(container.get("image") or "").rpartition("/")[2]


def newest(seen: Observed) -> tuple[str, list[Object]]:
    """Return the revision that the Deployment is rolling out and its living pods."""
    if seen.deployment is None:
        return "", []
    current = newest_set(seen)
    if current is None:
        return str(_revision(seen.deployment) or ""), []
    mark = current["metadata"].get("labels", {}).get(TEMPLATE_HASH)
    pods = [pod for pod in seen.pods if pod["metadata"].get("labels", {}).get(TEMPLATE_HASH) == mark and _counts(pod)]
    return str(_revision(current)), pods


def newest_set(seen: Observed) -> Object | None:
    """Return the ReplicaSet that the Deployment is rolling out, once it is there."""
    if seen.deployment is None:
        return None
    uid = seen.deployment["metadata"].get("uid")
    sets = [
        rs
        for rs in seen.replicasets
        if any(owner.get("uid") == uid for owner in rs["metadata"].get("ownerReferences", ()))
    ]
    # The annotation is only there once the new ReplicaSet is: until then its number is lower than the Deployment's.
    current = max(sets, key=_revision, default=None)
    return None if current is None or _revision(current) < _revision(seen.deployment) else current


def differences(wanted: Object, deployment: Object, ignored: frozenset[str] = frozenset()) -> list[str]:
    """Return where the Deployment's pod template is not yet what ``wanted`` asks for.

    What others add (defaults, side containers) is no difference; what was taken out of the lists that we own is one.
    """
    predictor = wanted.get("spec", {}).get("predictor", {})
    spec = deployment.get("spec", {})
    template = spec.get("template", {})
    pod = template.get("spec", {})
    found: list[str] = []
    for key in ("labels", "annotations"):
        live = template.get("metadata", {}).get(key) or {}
        asked = {**(wanted.get("metadata", {}).get(key) or {}), **(predictor.get(key) or {})}
        found += [
            f"{key[:-1]} {name}"
            for name, value in asked.items()
            if name not in _NOT_PROPAGATED | ignored and live.get(name) != value
        ]
    if (wanted.get("metadata", {}).get("annotations") or {}).get(SCALER_ANNOTATION) == "none" and spec.get(
        "replicas"
    ) != predictor.get("minReplicas", 1):
        found.append("replicas")

    live_containers = {container.get("name"): container for container in pod.get("containers", ())}
    for container in predictor.get("containers", ()):
        live = live_containers.get(container.get("name"))
        found += [container.get("name", "container")] if live is None else _container(container, live)
    exact = _POD_EXACT
    if model := predictor.get("model"):
        found += _of_runtime(model, live_containers.get(CONTAINER) or {})
        exact = ()  # the runtime has its own
    for key in _POD_FIELDS:
        kept, asked, there = key == "securityContext", predictor.get(key), pod.get(key)
        if asked is not None and not _covers(asked, there, kept):
            found.append(key)
        elif key in exact and not _empty(there) and not _covers(there, asked, kept):
            found.append(key)  # taken out of the specification, still in the template
    return found


_POD_EXACT: tuple[str, ...] = (
    "imagePullSecrets",
    "nodeSelector",
    "tolerations",
    "affinity",
    "topologySpreadConstraints",
    "runtimeClassName",
    "priorityClassName",
    "securityContext",
)
_POD_FIELDS = (
    *_POD_EXACT,
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "volumes",
    "initContainers",
    "hostNetwork",
    "schedulerName",
)
_CONTAINER_EXACT = ("env", "volumeMounts", "envFrom", "ports", "args", "command")


def _container(wanted: Object, live: Object) -> list[str]:
    found = [
        key
        for key, value in wanted.items()
        if key not in _CONTAINER_EXACT and not _covers(value, live.get(key), key == "securityContext")
    ]
    for key in _CONTAINER_EXACT:
        asked, there = wanted.get(key) or [], live.get(key) or []
        if key == "env":
            there = [item for item in there if item.get("name") not in _ADDED_ENV]
        if len(asked) != len(there) or not _covers(asked, there):
            found.append(key)
    return found


def _of_runtime(model: Object, live: Object) -> list[str]:
    """Compare ``predictor.model`` with the container that KServe makes of it and a serving runtime.

    The runtime's own variables, mounts and arguments are in it, too, so what is missing in ``model`` says nothing.
    """
    version, image = str(model.get("runtimeVersion") or ""), str(live.get("image", ""))
    found = ["runtimeVersion"] if version and not model.get("image") and not image.endswith(f":{version}") else []
    for key, value in model.items():
        if key == "args":
            there = list(live.get("args") or ())
            if there[len(there) - len(value) :] != list(value):
                found.append(key)
        elif key not in _MODEL_FIELDS and not _covers(value, live.get(key), key == "securityContext"):
            found.append(key)
    return found


_MODEL_FIELDS = ("modelFormat", "name", "protocolVersion", "runtime", "runtimeVersion", "storage", "storageUri")


def _covers(wanted: Any, live: Any, kept: bool = False) -> bool:
    """Whether ``live`` has all that ``wanted`` has.

    Most empty values are not stored, so they ask for nothing; where they are ``kept``, 0 is user 0.
    """
    if kept and wanted in (0, False) and not isinstance(wanted, (Mapping, list)):
        return bool(live is not None and wanted == live)
    if _empty(wanted):
        return True
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return False
        return all(_covers(value, live.get(key), kept or key == "securityContext") for key, value in wanted.items())
    if isinstance(wanted, (list, tuple)):
        if not isinstance(live, (list, tuple)):
            return False
        if all(isinstance(item, Mapping) for item in wanted):
            return all(any(_covers(item, candidate) for candidate in live) for item in wanted)
        return list(wanted) == list(live)
    if wanted == live:
        return True
    if live is None or isinstance(wanted, bool) or isinstance(live, bool):
        return False
    try:
        return quantity.parse(wanted) == quantity.parse(live)
    except ValueError:
        return False


def _empty(value: Any) -> bool:
    return (
        value is None or value is False or value in ("", 0) or (isinstance(value, (Mapping, list, tuple)) and not value)
    )


def _unfinished(isvc: Object, status: Object, replicas: int, others: Iterable[Object]) -> str:
    """Say what is missing although the new pods are ready; nothing when all agree."""
    if status.get("updatedReplicas", 0) < replicas or status.get("availableReplicas", 0) < replicas:
        return "Kubernetes has not counted them yet"
    old = [pod["metadata"]["name"] for pod in others if _counts(pod)]
    if old or status.get("replicas", 0) > replicas:
        return f"an old pod still serves{': ' + ', '.join(old) if old else ''}"
    local = isvc["metadata"].get("labels", {}).get(VISIBILITY_LABEL) == "cluster-local"
    kind = "PredictorReady" if local else "Ready"
    verdict = condition(isvc, kind)
    if verdict.get("status") == "True":
        return ""
    blocked = next(
        (
            c
            for c in isvc.get("status", {}).get("conditions", ())
            if c.get("type") in ("PredictorReady", "IngressReady") and c.get("status") != "True"
        ),
        verdict,
    )
    why = " ".join(str(blocked[key]) for key in ("reason", "message") if blocked.get(key))
    return f"KServe does not say {kind} yet" + (f" ({blocked.get('type', kind)}: {why})" if why else "")


def set_aside(pods: Iterable[Object]) -> list[Object]:
    """The pods that a key rotation has taken from their ReplicaSet: it is under way, or was cut off."""
    return [pod for pod in pods if ASIDE_ANNOTATION in (pod["metadata"].get("annotations") or {}) and _counts(pod)]


# -- pods


def _pod_state(pod: Object, events: Iterable[Object]) -> tuple[str, str]:
    name = pod["metadata"]["name"]
    if condition(pod, "PodScheduled").get("status") != "True":
        return "scheduling", condition(pod, "PodScheduled").get("message") or f"pod {name} waits for the scheduler"
    container = main_container(pod)
    waiting = container.get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    if "running" in container.get("state", {}):
        if condition(pod, "Ready").get("status") == "True":
            return "ready", f"pod {name} is ready"
        if container.get("ready") and (other := _waiting(pod)):
            return "starting", f"NIM is ready in pod {name}, but its container {other} is not"
        restarts = container.get("restartCount", 0)
        return "loading", f"pod {name} runs and loads the model" + (f" (restart {restarts})" if restarts else "")
    if reason in PULL_REASONS:
        return "pulling", f"{reason} in pod {name}"
    if reason in CONFIG_REASONS or reason == CRASH_REASON or "terminated" in container.get("state", {}):
        return "starting", f"{reason or 'the container ended'} in pod {name}"
    waits_for = next(
        (c for c in pod.get("status", {}).get("initContainerStatuses", ()) if not c.get("state", {}).get("terminated")),
        None,
    )
    if waits_for:
        return "starting", f"pod {name} runs its init container {waits_for.get('name')}"
    if pod_events(pod, events, "Pulled"):
        return "starting", f"pod {name} has its image and starts"
    if pod_events(pod, events, "Pulling"):
        return "pulling", f"pod {name} pulls its image"
    return "pulling", f"pod {name} is on node {pod.get('spec', {}).get('nodeName', '?')} and is prepared"


def _waiting(pod: Object) -> str:
    """Name a container beside NIM's that is not ready, with the reason if the kubelet gives one."""
    others = (c for c in pod.get("status", {}).get("containerStatuses", ()) if not c.get("ready"))
    for other in others:
        reason = other.get("state", {}).get("waiting", {}).get("reason")
        return f"{other.get('name')}{f' ({reason})' if reason else ''}"
    return ""


def main_container(pod: Object) -> Object:
    """Return the status of NIM's container, or of one before it that can't start and so keeps it from starting.

    Empty while the kubelet has reported nothing.
    """
    for before in pod.get("status", {}).get("initContainerStatuses", ()):
        if before.get("state", {}).get("waiting", {}).get("reason") in PULL_REASONS | CONFIG_REASONS | {CRASH_REASON}:
            return before  # type: ignore[no-any-return]
    statuses: Sequence[Object] = pod.get("status", {}).get("containerStatuses", ())
    return next((status for status in statuses if status.get("name") == CONTAINER), statuses[0] if statuses else {})


def pod_events(pod: Object, events: Iterable[Object], *reasons: str) -> list[Object]:
    """Return the events of exactly this pod (not of an earlier one of its name), oldest first."""
    uid = pod["metadata"].get("uid")
    mine = [
        event
        for event in events
        if event.get("involvedObject", {}).get("uid") == uid and (not reasons or event.get("reason") in reasons)
    ]
    return sorted(mine, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))


def condition(obj: Object, kind: str) -> Object:
    """Return the condition of this type; empty where there is none."""
    found: Object = next(
        (item for item in obj.get("status", {}).get("conditions", None) or () if item.get("type") == kind), {}
    )
    return found


def _counts(pod: Object) -> bool:
    """Whether the pod is or will be in service: not being deleted and not at its end."""
    return "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") not in (
        "Failed",
        "Succeeded",
    )


def _revision(obj: Object) -> int:
    return int((obj["metadata"].get("annotations") or {}).get(REVISION, 0))


def _image(deployment: Object) -> str:
    containers = deployment.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
    return str(next((c.get("image", "") for c in containers if c.get("name") == CONTAINER), ""))


def _phases(pods: Iterable[Object], events: Iterable[Object]) -> dict[str, float]:
    slowest: dict[str, float] = {}
    for pod in pods:
        phases = _phases_of(pod, events)
        if sum(phases.values()) >= sum(slowest.values()):
            slowest = phases
    return slowest


def _phases_of(pod: Object, events: Iterable[Object]) -> dict[str, float]:
    container = main_container(pod)
    pulled = [
        event
        for event in pod_events(pod, events, "Pulled")
        if not event.get("involvedObject", {}).get("fieldPath") or CONTAINER in event["involvedObject"]["fieldPath"]
    ]
    marks = {
        "scheduled": _when(condition(pod, "PodScheduled"), "lastTransitionTime"),
        "pulled": moment(pulled[0].get("firstTimestamp") or pulled[0].get("eventTime")) if pulled else None,
        "started": moment(container.get("state", {}).get("running", {}).get("startedAt")),
        "ready": _when(condition(pod, "Ready"), "lastTransitionTime"),
    }
    if container.get("restartCount"):  # what is recorded is the last start, which may be days later
        marks["started"] = marks["ready"] = None
    phases: dict[str, float] = {}
    last = moment(pod["metadata"].get("creationTimestamp"))
    for name, mark in marks.items():
        if mark is None or last is None:
            continue
        phases[name] = max((mark - last).total_seconds(), 0.0)  # the stamps are whole seconds of different clocks
        last = max(mark, last)
    return phases


def _when(found: Object, key: str) -> datetime | None:
    return moment(found.get(key)) if found.get("status") == "True" else None


def moment(text: Any) -> datetime | None:
    if not text:
        return None
    return datetime.fromisoformat(re.sub(r"\.\d+", "", str(text)).replace("Z", "+00:00"))


def ingress_address(ingress: Object) -> str:
    """Where its controller listens, as an Ingress says it: a name or an IP address without a port, or nothing."""
    points = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    for point in points:
        place = str(point.get("hostname") or point.get("ip") or "")
        if place:
            return f"[{place}]" if ":" in place else place
    return ""


def claims_of(isvc: Object) -> list[str]:
    """Return the claims that an InferenceService uses."""
    predictor = isvc["spec"]["predictor"]
    uri = str((predictor.get("model") or {}).get("storageUri") or "")
    return [*(uri.split("/")[2:3] if uri.startswith("pvc://") else ()), *mounted_claims(predictor)]


def mounted_claims(pod: Object) -> list[str]:
    """Return the claims among the volumes of a pod's ``spec``."""
    claims = (volume.get("persistentVolumeClaim") or {} for volume in pod.get("volumes") or ())
    return [claim["claimName"] for claim in claims if claim]
