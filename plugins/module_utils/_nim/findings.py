# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Why a service does not come up: named causes, each with what was seen and what to do.

A rule only looks at pods that the rollout is waiting for. ``heals`` separates what Kubernetes will get over by itself
(an outage, a GPU that is about to be free) from what waits for a person; only the latter ends a wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import capacity
from .names import CONTAINER
from .states import (
    CONFIG_REASONS,
    CRASH_REASON,
    PULL_REASONS,
    RECONCILE_FAILED,
    Object,
    Observed,
    condition,
    main_container,
    newest,
    newest_set,
    pod_events,
)

DOCS = "https://docs.nvidia.com/nim/large-language-models/latest/"
LOG_LINES = 15
REFUSALS = frozenset({"admission-refused", "kserve-refused"})  # that a controller met when it last tried
HOLDERS = 5  # so many pods that hold the wanted GPUs are named


@dataclass(frozen=True)
class Finding:
    """One cause. ``id`` is the rule, ``variant`` the case in it; ``lasting``: only believed when it stays."""

    id: str
    variant: str
    cause: str
    evidence: tuple[str, ...]
    remedy: str
    heals: bool
    docs: str = DOCS
    lasting: bool = False

    def text(self) -> str:
        """The finding as a person reads it in an error message."""
        seen = "".join(f"\n  seen: {line}" for line in self.evidence)
        return f"{self.cause}\n  what to do: {self.remedy}{seen}"


@dataclass(frozen=True)
class Around:
    """What lies beside the objects of a service that is late; what may not be read is missing.

    ``claims``: what is said of a claim that is not bound, by its name; ``nodes``: by name; ``pods``: of all namespaces.
    """

    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nodes: Mapping[str, Object] = field(default_factory=dict)
    pods: Sequence[Object] = ()


def find(
    seen: Observed,
    *,
    current: bool = True,
    logs: Mapping[str, str] | None = None,
    neighbours: Sequence[Object] = (),
    around: Around | None = None,
) -> list[Finding]:
    """Return what keeps the service from being ready, the final causes first.

    :param current: the Deployment holds the wanted specification; else its pods are of no interest.
    :param logs: the end of the crashed container's log by the pod's uid.
    :param neighbours: the other services' pods of the namespace (whose end may free a GPU).
    :param around: ``None`` while the service is not late: then nobody is blamed for not having acted yet.
    """
    if not current:
        return list(_kserve_refused(seen)) or list(_not_acted_on(seen, current, around))
    pods = newest(seen)[1]
    stuck = [
        pod
        for pod in pods
        if condition(pod, "Ready").get("status") != "True" and "deletionTimestamp" not in pod["metadata"]
    ]
    found: list[Finding] = []
    for pod in stuck:
        for rule in _POD_RULES:
            found += rule(pod, _Context(seen, pods, logs or {}, neighbours, around))
    found += _admission_refused(seen)
    found = found or list(_kserve_refused(seen)) or list(_not_acted_on(seen, current, around))
    # One line for ten replicas with the same trouble.
    unique = {(finding.id, finding.variant): finding for finding in reversed(found)}
    return sorted(unique.values(), key=lambda finding: (finding.heals, finding.lasting))


@dataclass(frozen=True)
class _Context:
    seen: Observed
    new: Sequence[Object]
    logs: Mapping[str, str]
    neighbours: Sequence[Object]
    around: Around | None


# -- image-pull-refused


@dataclass(frozen=True)
class _Case:
    variant: str
    pattern: str
    cause: str
    remedy: str
    heals: bool = False
    lasting: bool = False


_KEY = (
    "renew it with `ansible-playbook gpuops.nim.site -e @key.yml` (or nim_secret), which "
    "writes both secrets, then run this again"
)
_BUSY_REMEDY = "nothing yet, it is tried again; if it lasts look at https://status.ngc.nvidia.com"
_BLOCKED = "NVIDIA does not offer this model in the country or under the terms of this key (451)."
_BLOCKED_REMEDY = (
    "accept the model's terms on its page in the NGC catalog, or use a mirror in a region that may have it"
)
_ENTITLEMENT = (
    "the key is valid, but its organisation has no right to this model: no NVIDIA AI Enterprise or Developer "
    "Program subscription (402)."
)
_ENTITLEMENT_REMEDY = (
    "join the NVIDIA Developer Program or use a key of the organisation that holds the subscription; " + _KEY
)
_RIGHT_REMEDY = (
    "check the name, accept the model's terms on its page in the NGC catalog, and see that the key's scope includes "
    "the NGC Catalog; a new key: " + _KEY
)
# First match wins. Words of containerd, CRI-O and docker; the numbers only where they are a status.
_NO_SECRET = _Case(
    "no-secret",
    r"anonymous token[\s\S]{0,400}\b(401|403)\b|no basic auth credentials",
    "the node asked the registry without any key: no pull secret fits.",
    (
        "check that {secrets} in namespace {namespace} is of type "
        "kubernetes.io/dockerconfigjson and holds the registry's host name; nim_secret "
        "writes it"
    ),
)
_PULL_CASES = (
    _Case(
        "busy",
        (
            r"\b429\b.{0,3}too many requests|toomanyrequests|rate limit|status[a-z: ]{0,30}\(?\b(429"
            r"|5\d\d)\b|\b50[0-4]\b.{0,3}(internal server error|bad gateway|service unavailable"
            r"|gateway time-?out|not implemented)"
        ),
        "the registry is busy or has trouble of its own.",
        _BUSY_REMEDY,
        heals=True,
    ),
    _Case(
        "network",
        (
            r"i/o timeout|tls handshake timeout|context deadline exceeded|connection (refused"
            r"|reset)|no such host|server misbehaving|network is unreachable|no route to host"
            r"|temporary failure in name resolution|proxyconnect|unexpected eof|: eof\b"
            r"|client\.timeout"
        ),
        "the node can't reach the registry.",
        (
            "check the node's way out (proxy of containerd, NAT, firewall for nvcr.io); from "
            "China a mirror of the image is the lasting answer: push it there and set `image`"
        ),
        heals=True,
    ),
    _Case(
        "certificate",
        r"x509|certificate (signed by|has expired|is not valid)|tls: failed to verify",
        "the node does not trust the registry's certificate.",
        (
            "put the CA into the node's trust store (or containerd's certs.d) and restart "
            "nothing else; the kubelet tries again by itself"
        ),
    ),
    _Case(
        "disk",
        r"no space left on device",
        "the node's disk is full.",
        "free or enlarge the disk of containerd's image store; a NIM image needs 20 GB and more unpacked",
        lasting=True,
    ),
    _Case(
        "blocked",
        r"\b451\b.{0,3}unavailable for legal|unavailable for legal reasons|status[a-z: ]{0,30}\(?\b451\b",
        _BLOCKED,
        _BLOCKED_REMEDY,
    ),
    _Case(
        "entitlement",
        r"\b402\b.{0,3}payment required|payment required|status[a-z: ]{0,30}\(?\b402\b",
        _ENTITLEMENT,
        _ENTITLEMENT_REMEDY,
    ),
    _NO_SECRET,
    _Case(
        "key",
        (
            r"\b401\b.{0,3}unauthorized|status[a-z: ]{0,30}\(?\b401\b|invalid username/password"
            r"|unauthorized: |authentication required"
        ),
        "the registry refuses the key: it is wrong, expired or revoked (401).",
        _KEY,
    ),
    _Case(
        "right",
        r"\b403\b.{0,3}forbidden|status[a-z: ]{0,30}\(?\b403\b|\bdenied\b|insufficient_scope",
        "the key is known, but has no right to this repository (403).",
        _RIGHT_REMEDY,
    ),
    _Case(
        "platform",
        r"no match for platform",
        "the image has no build for this node's processor.",
        "use a node of another architecture (most NIM images are amd64 alone) through node_selector",
    ),
    _Case(
        "name",
        (
            r"manifest unknown|name unknown|repository name not known|\b404\b.{0,3}not found"
            r"|status[a-z: ]{0,30}\(?\b404\b|not found|does not exist"
        ),
        "the registry has no such image or tag (404).",
        (
            "check `image`: {image} (Llama 3 is written llama3-…, Llama 3.1 llama-3.1-…); the "
            "tags are on the image's page in the NGC catalog"
        ),
    ),
)


def _image_pull_refused(pod: Object, context: _Context) -> Iterator[Finding]:
    status = main_container(pod)
    waiting = status.get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    if reason not in PULL_REASONS:
        return
    image = status.get("image") or _image(pod)
    # While the kubelet backs off, its message no longer says why (before 1.31): the event does.
    told = [str(waiting.get("message") or "")] + [
        str(event.get("message") or "")
        for event in reversed(pod_events(pod, context.seen.events, "Failed", "InspectFailed"))
    ]
    told = [text for text in told if text and not re.fullmatch(r'(Back-off pulling image ".*"|Error: \w+)', text)]
    missing = pod_events(pod, context.seen.events, "FailedToRetrieveImagePullSecret")
    if reason == "InvalidImageName":
        yield _finding(
            "image-pull-refused",
            _Case("name", "", "the image's name is not a valid reference.", "check `image`: {image}"),
            told,
            pod,
            image,
        )
        return
    if reason == "ErrImageNeverPull":
        yield _finding(
            "image-pull-refused",
            _Case(
                "never",
                "",
                "the image is not on the node and image_pull_policy is Never.",
                "set image_pull_policy: IfNotPresent",
            ),
            told,
            pod,
            image,
        )
        return
    for text in told:
        case = next((case for case in _PULL_CASES if re.search(case.pattern, text, re.I)), None)
        if case is None:
            continue
        evidence = [text]
        if missing and case.variant in ("key", "right", "no-secret"):
            evidence.append(str(missing[-1].get("message")))
            case = _NO_SECRET
        yield _finding("image-pull-refused", case, evidence, pod, image)
        return
    unknown = _Case(
        "unknown",
        "",
        "the image can't be pulled.",
        "look at the message; the kubelet tries again with growing pauses",
        heals=True,
    )
    yield _finding("image-pull-refused", unknown, told or [f"{reason}: {waiting.get('message', '')}"], pod, image)


# -- crash-loop, out-of-memory


def _ended(status: Object) -> Object:
    """How the container's last run ended, unless it runs again."""
    state = status.get("state", {})
    ended: Object = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return ended


def _out_of_memory(pod: Object, context: _Context) -> Iterator[Finding]:
    for status in _containers(pod):
        ended = _ended(status)
        if ended.get("reason") != "OOMKilled":
            continue
        limit = _limit(pod, status.get("name", ""))
        yield Finding(
            "out-of-memory",
            "memory-limit",
            (
                f"the kernel ended container {status.get('name')} because it reached its memory "
                f"limit{f' of {limit}' if limit else ''} (exit code {ended.get('exitCode', 137)})."
            ),
            _quote([f"pod {pod['metadata']['name']}: OOMKilled, restarts: {status.get('restartCount', 0)}"]),
            (
                "set memory higher; /dev/shm (share_memory) counts inside it. As a rule: 10 GB, plus "
                "share_memory, plus 2 GB for each billion of the model's parameters"
            ),
            # The state Running means that it tries again; the second end will show here.
            heals="running" in status.get("state", {}),
        )


# What NIM's own log says when it can't get its model: a node that has the image already never asks the registry for it.
_LOG_CASES = (
    _Case(
        "key-missing",
        r"requires an api key, but none was found",
        "NIM has no key: NGC_API_KEY is missing or empty in the container.",
        "write the secret with nim_secret, and let env_from_secret name it",
    ),
    _Case(
        "key-malformed",
        r"invalidheadervalue",
        "the key in the container holds a line break or another character that no key has.",
        "write it again with nim_secret, which strips it",
    ),
    _Case("blocked", r"\b451\b.{0,3}unavailable for legal", _BLOCKED, _BLOCKED_REMEDY),
    _Case("entitlement", r"\b402\b.{0,3}payment required", _ENTITLEMENT, _ENTITLEMENT_REMEDY),
    _Case(
        "key",
        r"\b401\b.{0,3}unauthorized",
        "NGC refuses the key when NIM downloads the model: it is wrong, expired or revoked (401).",
        _KEY,
    ),
    _Case(
        "right",
        r"\b403\b.{0,3}forbidden",
        "the key is known to NGC, but has no right to the model's files (403).",
        _RIGHT_REMEDY,
    ),
    _Case(
        "busy",
        r"\b429\b.{0,3}too many requests|\b50[0-4]\b.{0,3}(internal|bad gateway|service unavailable|gateway)",
        "NGC is busy or has trouble of its own, so NIM can't download the model.",
        _BUSY_REMEDY,
        heals=True,
    ),
    _Case(
        "network",
        r"error sending request for url|dns error|failed to lookup address|temporary failure in name resolution",
        "NIM can't reach NGC from inside the pod.",
        "check the pod's way out: DNS, proxy (HTTPS_PROXY and NO_PROXY in env), network policy",
        heals=True,
    ),
    _Case(
        "share-memory",
        r"/dev/shm\S*.{0,40}no space left|shared memory segment",
        "/dev/shm is too small.",
        "set share_memory higher, and memory with it",
    ),
    _Case(
        "cache-full",
        r"no space left on device",
        "the cache volume is full.",
        "enlarge the claim, or remove models that are no longer used from it",
    ),
    _Case(
        "cache-not-writable",
        r"unable to write to nim_cache_path|permission denied|read-only file system|errno 13",
        "NIM may not write to the cache volume.",
        "set security_context.fsGroup; on NFS (Alibaba Cloud NAS) runAsUser must be the owner of the directory",
    ),
    _Case(
        "profile",
        r"could not find a profile that is currently runnable|could not match a profile in manifest",
        "no profile of this model fits the node's GPUs.",
        "take another GPU or number of gpus, end what else uses the GPU, or unset NIM_MODEL_PROFILE",
    ),
)


def _crash_loop(pod: Object, context: _Context) -> Iterator[Finding]:
    for status in _containers(pod):
        ended = _ended(status)
        waiting = status.get("state", {}).get("waiting", {}).get("reason")
        if ended.get("reason") == "OOMKilled" or waiting != CRASH_REASON:
            continue
        name, container, code = pod["metadata"]["name"], status.get("name"), ended.get("exitCode")
        text = context.logs.get(str(pod["metadata"].get("uid")), "")
        log = [line for line in [*text.splitlines(), str(ended.get("message") or "")] if line.strip()][-LOG_LINES:]
        killed = [
            str(event["message"])
            for event in pod_events(pod, context.seen.events, "Killing")
            if "failed startup probe" in str(event.get("message"))
        ]
        case = _Case(
            "exit",
            "",
            f"container {container} ended {status.get('restartCount', 0) + 1} times, last with exit code {code}.",
            f"read why it ended: kubectl -n {pod['metadata'].get('namespace')} logs {name} -c {container} --previous",
        )
        if killed and code in (137, 143):
            case = _Case(
                "startup-probe",
                "",
                "the model was not loaded when the startup window ended, so Kubernetes restarted the container.",
                "set startup_timeout higher; with a cache claim the next start goes on where the download ended",
            )
            log = [*killed[-1:], *log]
        elif told := [(known, line) for known in _LOG_CASES for line in log if re.search(known.pattern, line, re.I)]:
            case, log = told[0][0], [line for known, line in told if known is told[0][0]][-3:]
        yield Finding("crash-loop", case.variant, case.cause, _quote(log), case.remedy, case.heals)


# -- unschedulable

_PROVISIONING = _Case("provisioning", "", "the volume of the cache claim is being made.", "nothing yet", heals=True)
LOST_TAINTS = frozenset({"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"})
_LOST_NODE = _Case(
    "node-lost",
    r"untolerated taint(\(s\))? \{[^}]*node\.kubernetes\.io/(unreachable|not-ready)",  # not told since 1.36
    "a node that the pod might run on does not answer.",
    (
        "see what happened to it: kubectl get nodes, and on the node: systemctl status kubelet; the pod starts by "
        "itself when it is back"
    ),
)
_SCHEDULE_CASES = (
    _Case(
        "claim-missing",
        r'persistentvolumeclaim "[^"]*" not found',
        "a claim of the pod does not exist.",
        "make the claim; that of cache is made if you set cache.size",
    ),
    _Case(
        "claim-unbound",
        (
            r"unbound immediate persistentvolumeclaims|no persistent volumes available|volume "
            r"node affinity conflict|didn't find available persistent volumes"
        ),
        "the cache claim has no volume that this pod can use.",
        (
            "check the claim: kubectl -n {namespace} describe pvc; storage class, access mode, "
            "size and zone must fit (on Alibaba Cloud: NAS for ReadWriteMany)"
        ),
    ),
    _LOST_NODE,
    _Case(
        "gpu",
        r"insufficient (?P<what>[\w.-]+/[\w.-]*\w)",
        "no node has enough free {what}.",
        (
            "lower gpus, add a node, or stop what holds them: kubectl get pods -A -o wide; a "
            "node without any shows that its device plugin is missing"
        ),
    ),
    _Case(
        "taint",
        r"untolerated taint|had taint",
        "every fitting node has a taint that the pod does not tolerate.",
        "add the taint to tolerations",
    ),
    _Case(
        "node-selector",
        r"didn't match pod's node affinity|node affinity/selector|node\(s\) didn't match",
        "no node has the labels that are asked for.",
        "check node_selector against kubectl get nodes --show-labels",
    ),
    _Case(
        "cpu-memory",
        r"insufficient (cpu|memory|ephemeral-storage)",
        "no node has enough free CPU or memory.",
        "lower cpu or memory, or add a node",
    ),
    _Case("other", r"", "no node can take the pod.", "look at what the scheduler says"),
)


def _unschedulable(pod: Object, context: _Context) -> Iterator[Finding]:
    verdict = condition(pod, "PodScheduled")
    if verdict.get("status") != "False" or verdict.get("reason") not in ("Unschedulable", "SchedulerError"):
        return
    message = str(verdict.get("message") or "")
    case, match = _first(_SCHEDULE_CASES, message)
    what = match.groupdict().get("what") or ""
    evidence = [message]
    around = context.around or Around()
    if case.variant == "claim-unbound":
        said = [text for name in claims_of(pod) for text in around.claims.get(name, ())]
        evidence += said
        if _provisioning(said):
            case = _PROVISIONING
    if case.variant == "taint":
        told = [(str(taint["key"]), taint, node) for node, taint in _taints(pod, around.nodes.values())]
        evidence += [f"node {node} has the taint {key}={t.get('value', '')}:{t.get('effect')}" for key, t, node in told]
        if told and all(key in LOST_TAINTS for key, *_rest in told):
            case = _LOST_NODE
    if case.variant in ("gpu", "cpu-memory"):
        held_by = [other for other in around.pods if what and _amount(other, what)]
        leaving = [
            other
            for other in (*context.seen.pods, *context.neighbours, *held_by)
            if "deletionTimestamp" in other["metadata"] and (not what or _amount(other, what))
        ]
        evidence += _holders(held_by, what)
        mine = {other["metadata"].get("uid") for other in context.new}
        old = [
            other for other in context.seen.pods if other["metadata"].get("uid") not in mine and other not in leaving
        ]
        if leaving:
            held = (
                f"pod {leaving[0]['metadata']['name']} is ending and still holds what the new pod "
                f"needs ({what or 'CPU or memory'})."
            )
            case = replace(
                case, variant="held", cause=held, remedy="nothing, it is free once the old pod has ended", heals=True
            )
        elif old and not _surges(context.seen.deployment):
            held = (
                f"the old pod {old[0]['metadata']['name']} still holds what the new pod needs "
                f"({what or 'CPU or memory'})."
            )
            case = replace(case, variant="held", cause=held, remedy="nothing, the rollout takes it down", heals=True)
        elif old:
            held = (
                f"the old pod {old[0]['metadata']['name']} holds what the new pod needs "
                f"({what or 'CPU or memory'}), and update_strategy surge keeps it until the new one "
                "is ready."
            )
            case = replace(
                case,
                variant="surge",
                cause=held,
                remedy="set update_strategy: in_place (a gap while the model loads), or add a node",
            )
    yield _finding("unschedulable", replace(case, lasting=True), evidence, pod, "", what=what)


def _taints(pod: Object, nodes: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    for node in nodes:
        for taint in capacity.untolerated(pod.get("spec", {}), node):
            yield node["metadata"]["name"], taint


def _provisioning(said: Sequence[str]) -> bool:
    """Whether a provisioner is at work on the claim, and has not failed."""
    reasons = {text.partition(":")[0] for text in said}
    return "Provisioning" in reasons and "ProvisioningFailed" not in reasons


def _amount(pod: Object, resource: str) -> int:
    """How much of an extended resource a pod that has its node holds, or will until its end."""
    over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    spec = pod.get("spec", {})
    return 0 if over or not spec.get("nodeName") else capacity.requests(spec)[resource] // 1000


def _holders(pods: Iterable[Object], what: str) -> list[str]:
    rows = sorted(((_amount(pod, what), _full_name(pod)) for pod in pods), key=lambda row: (-row[0], row[1]))
    if not rows:
        return []
    more = f" and {len(rows) - HOLDERS} more" if len(rows) > HOLDERS else ""
    return [f"{what} is held by " + ", ".join(f"{name} ({count})" for count, name in rows[:HOLDERS]) + more]


def _full_name(obj: Object) -> str:
    return f"{obj['metadata'].get('namespace')}/{obj['metadata']['name']}"


def claims_of(pod: Object) -> list[str]:
    """The names of the claims that a pod mounts."""
    volumes = pod.get("spec", {}).get("volumes") or ()
    return [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]


def _surges(deployment: Object | None) -> bool:
    rolling = (deployment or {}).get("spec", {}).get("strategy", {}).get("rollingUpdate", {})
    return str(rolling.get("maxUnavailable", "25%")) in ("0", "0%")


# -- config-error

_CONFIG_CASES = (
    _Case(
        "secret-key",
        r"couldn't find key (?P<what>\S+) in secret (?P<owner>\S+)",
        "the secret {owner} has no key {what}.",
        "write it with nim_secret, or name the right key: env_from_secret: {{{what}: {{secret: {owner}, key: KEY}}}}",
    ),
    _Case(
        "secret",
        r'secret "(?P<what>[^"]+)" not found',
        "the secret {what} does not exist in namespace {namespace}.",
        "write it with nim_secret (namespaces: [{namespace}]), or correct env_from_secret",
    ),
    _Case(
        "configmap-key",
        r"couldn't find key (?P<what>\S+) in configmap (?P<owner>\S+)",
        "the ConfigMap {owner} has no key {what}.",
        "correct the reference in pod_patch, or add the key",
    ),
    _Case(
        "configmap",
        r'configmap "(?P<what>[^"]+)" not found',
        "the ConfigMap {what} does not exist in namespace {namespace}.",
        "create it, or correct the reference in pod_patch",
    ),
    _Case(
        "run-as-root",
        r"runasnonroot|will run as root",
        "the image would run as root, which runAsNonRoot forbids.",
        "set security_context.runAsUser: 1000, NIM's own user",
    ),
    _Case(
        "runtime",
        r"no runtime for|oci runtime|failed to create (shim|containerd) task|nvidia-container",
        "the container runtime can't start the container.",
        "look at the message; for GPUs the NVIDIA container toolkit must be set up on the node",
    ),
    _Case("other", r"", "the container can't be made.", "look at the message"),
)


def _config_error(pod: Object, context: _Context) -> Iterator[Finding]:
    for status in _containers(pod):
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in CONFIG_REASONS:
            continue
        message = str(waiting.get("message") or "")
        case, match = _first(_CONFIG_CASES, message)
        values = {key: value.rpartition("/")[2] for key, value in match.groupdict().items() if value}
        yield _finding(
            "config-error",
            replace(case, lasting=case.variant in ("runtime", "other")),
            [f"{waiting['reason']}: {message}"],
            pod,
            "",
            **values,
        )


# -- admission-refused

# Braces are doubled for str.format.
_RESTRICTED_POD = (
    "{{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {{type: RuntimeDefault}}}}"
)
_RESTRICTED_CONTAINER = (
    f"{{{{containers: [{{{{name: {CONTAINER}, "
    "securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}]}}"
)
_ADMISSION_CASES = (
    _Case(
        "quota",
        r"exceeded quota: (?P<what>[\w.-]+)|must specify limits|failed quota",
        "the namespace's quota {what} does not allow the pod.",
        (
            "raise the quota, lower cpu, memory or gpus, or end something else: kubectl -n {namespace} describe quota "
            "{what}"
        ),
        lasting=True,
    ),
    _Case(
        "pod-security",
        r"violates podsecurity|podsecurity",
        "the namespace's pod security level forbids the pod.",
        (
            "set what the message names, all of the level restricted being\n"
            f"    security_context: {_RESTRICTED_POD}\n"
            f"    pod_patch: {_RESTRICTED_CONTAINER}\n"
            "  (a user of another number where the cluster wants that), or lower the level: kubectl label namespace "
            "{namespace} pod-security.kubernetes.io/enforce=baseline --overwrite"
        ),
    ),
    _Case(
        "limit-range",
        r"(maximum|minimum) (cpu|memory|\S+) usage per|limitrange",
        "the namespace's LimitRange forbids the sizes.",
        "set cpu and memory within it: kubectl -n {namespace} describe limitrange",
    ),
    _Case(
        "webhook-down",
        r"failed calling webhook|failed to call webhook",
        "a webhook that must see every pod does not answer.",
        "look at the webhook's own pods; Kubernetes tries again by itself",
        heals=True,
    ),
    _Case(
        "webhook",
        r'admission webhook "(?P<what>[^"]+)" denied',
        "the webhook {what} refuses the pod.",
        "do what its message asks for",
    ),
    _Case(
        "service-account",
        (
            r'serviceaccount "?(?P<what>[^" ]+)"? not found|error looking up service account '
            r"\S*/(?P<other>\S+):"
        ),
        "the service account {what} does not exist.",
        "create it, or correct service_account_name",
    ),
    _Case(
        "runtime-class",
        r'runtimeclass "?[^"]*"? not found|runtimeclass',
        "the RuntimeClass does not exist.",
        "create it, or take runtimeClassName out of pod_patch",
    ),
    _Case(
        "priority-class",
        r"no priorityclass",
        "the PriorityClass does not exist.",
        "create it, or correct it in pod_patch",
    ),
    _Case("other", r"", "the cluster refuses to make the pods.", "do what the message asks for", lasting=True),
)


def _admission_refused(seen: Observed) -> Iterator[Finding]:
    # the Deployment's own condition may be that of an older ReplicaSet
    refusal = condition(newest_set(seen) or {}, "ReplicaFailure")
    if refusal.get("status") != "True":
        return
    message = str(refusal.get("message") or "")
    case, match = _first(_ADMISSION_CASES, message)
    groups = match.groupdict()
    what = groups.get("what") or groups.get("other") or ""
    yield _finding("admission-refused", case, [message], seen.deployment or {}, "", what=what)


# -- kserve-refused

_KSERVE_CASES = (
    _Case(
        "quota",
        r"exceeded quota: (?P<what>[\w.-]+)",
        "KServe can't make the service's objects: the namespace's quota {what} is used up.",
        "raise the quota, or remove what is not needed: kubectl -n {namespace} describe quota {what}",
    ),
    _Case(
        "clash",
        r"field is immutable|already exists|is invalid: spec\.selector",
        "KServe can't make the service's objects: another one of that name is in the way.",
        "remove what the message names if nobody needs it, or take another name for the service",
    ),
    _Case(
        "forbidden",
        r"\bforbidden\b|denied the request",
        "KServe may not make the service's objects.",
        "do what the message asks for; KServe tries again by itself, and at once when this is run again",
    ),
    _Case(
        "other",
        r"",
        "KServe can't make the service's objects.",
        "look at the message and at KServe's log; it tries again by itself, and at once when this is run again",
    ),
)
_RACE = "the object has been modified"  # KServe lost a race and simply tries again


def _kserve_refused(seen: Observed) -> Iterator[Finding]:
    """What KServe says of itself since 0.17."""
    refusal = condition(seen.isvc or {}, "PredictorReady")
    message = str(refusal.get("message") or "")
    if refusal.get("status") == "True" or refusal.get("reason") != RECONCILE_FAILED or _RACE in message:
        return
    case, match = _first(_KSERVE_CASES, message)
    what = match.groupdict().get("what") or ""
    yield _finding("kserve-refused", replace(case, lasting=True), [message], seen.isvc or {}, "", what=what)


# -- controller-silent: somebody should have acted by now, and nothing says why not

_SILENT = {
    "kserve": _Case(
        "kserve",
        "",
        "KServe's controller has not acted on the service.",
        (
            "see whether it runs: kubectl get pods -A -l control-plane=kserve-controller-manager; when it is back it "
            "goes on by itself"
        ),
    ),
    "controller-manager": _Case(
        "controller-manager",
        "",
        "Kubernetes has not acted on the Deployment.",
        "see whether kube-controller-manager runs: kubectl get --raw=/healthz, kubectl -n kube-system get pods",
    ),
    "scheduler": _Case(
        "scheduler",
        "",
        "the scheduler has not looked at the pod.",
        "see whether kube-scheduler runs: kubectl -n kube-system get pods; pod_patch.schedulerName must be one that is",
    ),
    "claim": _Case(
        "claim",
        "",
        "the scheduler waits for the volume of the cache claim, and nobody makes it.",
        (
            "see what the claim waits for: kubectl -n {namespace} describe pvc; the provisioner of its storage class "
            "must run"
        ),
    ),
}


def _not_acted_on(seen: Observed, current: bool, around: Around | None) -> Iterator[Finding]:
    if around is None or seen.isvc is None:
        return
    who, about, evidence = "", seen.isvc, []
    deployment = seen.deployment
    if deployment is None:
        who, evidence = "kserve", ["there is no Deployment"]
    elif deployment.get("status", {}).get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        who, about, evidence = "controller-manager", deployment, ["the Deployment has not been taken over"]
    elif not current:
        who, evidence = "kserve", ["the Deployment still has another specification"]
    else:
        pods = newest(seen)[1]
        waiting = next((pod for pod in pods if not condition(pod, "PodScheduled")), None)
        if waiting is not None:
            said = [text for name in claims_of(waiting) for text in around.claims.get(name, ())]
            if _provisioning(said):
                return
            who, about, evidence = ("claim" if said else "scheduler"), waiting, said
            evidence = evidence or [f"pod {waiting['metadata']['name']} has no verdict of the scheduler"]
        elif not seen.pods and deployment.get("spec", {}).get("replicas", 1):
            who, about, evidence = "controller-manager", deployment, ["its pods have not been made"]
        elif pods and _available(deployment) and condition(seen.isvc, "PredictorReady").get("status") != "True":
            who, evidence = "kserve", ["the Deployment is available, and the InferenceService does not say so"]
    if who:
        yield _finding("controller-silent", replace(_SILENT[who], lasting=True), evidence, about, "")


def _available(deployment: Object) -> bool:
    status, replicas = deployment.get("status", {}), deployment.get("spec", {}).get("replicas", 1)
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    return counts == [replicas] * 3


# -- node-lost


def _node_lost(pod: Object, context: _Context) -> Iterator[Finding]:
    name = pod.get("spec", {}).get("nodeName")
    if not name:
        return
    around = context.around
    # who may not see nodes sees what Kubernetes did to the pod: not ready, though its container was, by the last report
    told = [str(e.get("message")) for e in pod_events(pod, context.seen.events, "NodeNotReady")]
    if around is not None and name in around.nodes:
        evidence = _unready(around.nodes[name])
    else:
        evidence = told[-1:] if main_container(pod).get("ready") else []
    if evidence:
        yield _lost(name, evidence)
    elif around is not None and not pod.get("status", {}).get("startTime") and not main_container(pod):
        cause = f"the kubelet of node {name} has not taken the pod over."
        yield replace(_lost(name, [f"pod {pod['metadata']['name']} has no start time"]), variant="kubelet", cause=cause)


def lost_node(node: Object) -> Finding | None:
    """What to say of pods on this node that neither run nor end; ``None`` while it is well."""
    evidence = _unready(node)
    return _lost(node["metadata"]["name"], evidence) if evidence else None


def _unready(node: Object) -> list[str]:
    verdict = condition(node, "Ready")
    words = " ".join(str(verdict[key]) for key in ("status", "reason", "message") if verdict.get(key))
    return [] if verdict.get("status") == "True" else [f"node {node['metadata']['name']}: Ready is {words}"]


def _lost(name: str, evidence: Sequence[str]) -> Finding:
    return Finding(
        "node-lost",
        "lost",
        f"node {name} does not answer.",
        _quote(evidence),
        (
            f"see what happened to it: kubectl describe node {name}, and on the node: systemctl status kubelet. When "
            f"it is back its pods go on, or end, by themselves; if it never comes back, kubectl delete node {name} "
            "gives them up"
        ),
        heals=True,
    )


# -- shared

_POD_RULES: tuple[Callable[[Object, _Context], Iterable[Finding]], ...] = (
    _image_pull_refused,
    _config_error,
    _out_of_memory,
    _crash_loop,
    _unschedulable,
    _node_lost,
)


def _containers(pod: Object) -> Iterator[Object]:
    for status in (
        *pod.get("status", {}).get("initContainerStatuses", ()),
        *pod.get("status", {}).get("containerStatuses", ()),
    ):
        if not status.get("ready"):
            yield status


def _image(pod: Object) -> str:
    return str(
        next((c.get("image", "") for c in pod.get("spec", {}).get("containers", ()) if c.get("name") == CONTAINER), "")
    )


def _limit(pod: Object, container: str) -> str:
    spec: Object = next((c for c in pod.get("spec", {}).get("containers", ()) if c.get("name") == container), {})
    return str(spec.get("resources", {}).get("limits", {}).get("memory", ""))


def _first(cases: Sequence[_Case], message: str) -> tuple[_Case, re.Match[str]]:
    """The first case whose pattern is found; every table ends with one that fits all."""
    for case in cases:
        match = re.search(case.pattern, message, re.I)
        if match:
            return case, match
    raise AssertionError("the table has no case for the rest")


def _finding(rule: str, case: _Case, evidence: Iterable[str], obj: Object, image: str, **values: str) -> Finding:
    namespace = str(obj.get("metadata", {}).get("namespace", ""))
    secrets = (
        ", ".join(str(item.get("name")) for item in obj.get("spec", {}).get("imagePullSecrets", None) or ())
        or "the pull secret"
    )
    words: dict[str, Any] = {
        "namespace": namespace,
        "image": image,
        "secrets": secrets,
        "what": "",
        "owner": "",
        **values,
    }
    cause = re.sub(r"\s+([.,]|$)", r"\1", re.sub(r" {2,}", " ", case.cause.format(**words)))
    return Finding(
        rule, case.variant, cause, _quote(evidence), case.remedy.format(**words), case.heals, lasting=case.lasting
    )


_SECRETS = (
    (re.compile(r"nvapi-[\w-]{4,}"), "nvapi-***"),
    (re.compile(r"\b(hf_)[A-Za-z0-9]{8,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "***"),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+@"), r"\1***@"),
    # key=value, "key": "value" and key:value; not "oauth token: unexpected status", which is prose.
    (
        re.compile(
            r"""(?i)\b([\w-]*(?:api[_-]?key|password|passwd|secret|token|credentials?)(?:\s*=\s*|["']\s*:\s*|:(?=\S))["']?)(?!\*\*\*)[^\s"',;&]{6,}"""
        ),
        r"\1***",
    ),
)


def redact(text: str) -> str:
    """Return ``text`` without what looks like a credential."""
    for pattern, cover in _SECRETS:
        text = pattern.sub(cover, text)
    return text


def _quote(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(redact(re.sub(r"\s+", " ", text).strip())[:1500] for text in texts if text and text.strip())
