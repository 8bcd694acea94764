# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""No node takes the pod."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from .. import capacity
from ..states import Object, condition, mounted_claims
from . import quote
from .model import Case, Context, Finding, Rule

HOLDERS = 5  # so many pods that hold the wanted GPUs are named
_LOST_TAINTS = frozenset({"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"})
_GPU_TAINT = re.compile(r"taint(\(s\))? \{[^}]*(gpu|accelerator)", re.I)  # so those are the nodes that have some
_PRESSURE_TAINTS = frozenset(f"node.kubernetes.io/{what}-pressure" for what in ("disk", "memory", "pid"))

RULE = Rule(
    "unschedulable",
    "The scheduler has looked at all nodes, and none takes the pod: `PodScheduled` is `False`.",
    (
        Case(
            "claim-missing",
            r'persistentvolumeclaim "[^"]*" (not found|is being deleted)',
            "a claim of the pod does not exist.",
            "make the claim; that of cache is made if you set cache.size",
            '0/1 nodes are available: persistentvolumeclaim "nim-model" not found.',
            lasting=True,
        ),
        Case(
            "claim-zone",
            r"volume node affinity conflict|didn't match persistentvolume's node affinity",
            "the cache claim's volume is in a zone, or on a node, where the pod can't run.",
            (
                "let the pod run where its volume is (node_selector), or make the claim anew on storage that every "
                "zone reaches (on Alibaba Cloud: NAS); a disk belongs to one zone"
            ),
            "0/2 nodes are available: 2 node(s) had volume node affinity conflict.",
            lasting=True,
        ),
        Case(
            "claim-in-use",
            r"readwriteoncepod|already in-use by another pod",
            "the cache claim is for one pod alone, and another pod has it.",
            (
                "end the other pod (kubectl -n {namespace} get pods), or make the claim with access mode "
                "ReadWriteMany; "
                "a rollout needs update_strategy: in_place"
            ),
            (
                "0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod "
                "access mode already in-use by another pod."
            ),
            lasting=True,
        ),
        Case(
            "provisioning",
            None,
            "the volume of the cache claim is being made.",
            "nothing yet",
            "an event Provisioning of the claim, and none ProvisioningFailed",
            heals=True,
            lasting=True,
            severity="warning",
            patience=180,
        ),
        Case(
            "claim-unbound",
            (
                r"unbound immediate persistentvolumeclaims|no persistent volumes available"
                r"|didn't find available persistent volumes|binding volumes|unbound or lost"
            ),
            "the cache claim has no volume that this pod can use.",
            (
                "check the claim: kubectl -n {namespace} describe pvc; storage class, access mode, "
                "size and zone must fit (on Alibaba Cloud: NAS for ReadWriteMany)"
            ),
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            lasting=True,
        ),
        Case(
            "node-lost",
            r"untolerated taint(\(s\))? \{[^}]*node\.kubernetes\.io/(unreachable|not-ready)",  # not told since 1.36
            "a node that the pod might run on does not answer.",
            (
                "see what happened to it: kubectl get nodes, and on the node: systemctl status kubelet; the pod starts "
                "by itself when it is back"
            ),
            "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }.",
            lasting=True,
            confidence="likely",
        ),
        Case(
            "held",
            None,
            "{holder} still holds what the new pod needs ({what}).",
            "nothing, the new pod starts once the old one has ended",
            "Insufficient nvidia.com/gpu, while a pod that ends, or that the rollout takes down, has some",
            heals=True,
            lasting=True,
            severity="warning",
            patience=180,
        ),
        Case(
            "surge",
            None,
            (
                "{holder} holds what the new pod needs ({what}), and update_strategy surge keeps it until "
                "the new one is ready."
            ),
            "set update_strategy: in_place (a gap while the model loads), or add a node",
            "Insufficient nvidia.com/gpu, while the old revision's pod has some and maxUnavailable is 0",
            lasting=True,
        ),
        Case(
            "no-device-plugin",
            None,
            "no node of the cluster offers any {what}: the device plugin is missing, or finds no GPU.",
            (
                "install NVIDIA's device plugin or GPU operator (on ACK: label the GPU nodes "
                "ack.node.gpu.schedule=default), and look at its log on the GPU node"
            ),
            "Insufficient nvidia.com/gpu, and no node has nvidia.com/gpu in its allocatable resources",
            lasting=True,
        ),
        Case(
            "too-many-gpus",
            None,
            "the pod wants {wanted} {what}, and no node has more than {most}.",
            "lower gpus to {most}, or add a node that has as many",
            "Insufficient nvidia.com/gpu, and the largest node has fewer than the pod wants",
            lasting=True,
        ),
        Case(
            "gpu",
            r"insufficient (?P<what>[\w.-]+/[\w.-]*\w)",
            "no node has enough free {what}.",
            (
                "lower gpus, add a node, or stop what holds them: kubectl get pods -A -o wide; a "
                "node without any shows that its device plugin is missing"
            ),
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
            lasting=True,
        ),
        Case(
            "pressure",
            r"node\.kubernetes\.io/(disk|memory|pid)-pressure",
            "a node that the pod might run on is short of disk, memory or processes.",
            "free it, or enlarge its disk: kubectl describe nodes; the pod starts by itself once the node is well",
            "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.",
            lasting=True,
        ),
        Case(
            "taint",
            r"untolerated taint|had taint",
            "every fitting node has a taint that the pod does not tolerate.",
            "add the taint to tolerations",
            "0/1 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}.",
            lasting=True,
        ),
        Case(
            "cordoned",
            r"node\(s\) were unschedulable",
            "the nodes that the pod might run on take no new pods: they are cordoned.",
            "if their maintenance is over: kubectl get nodes, kubectl uncordon NODE",
            "0/1 nodes are available: 1 node(s) were unschedulable.",
            lasting=True,
        ),
        Case(
            "affinity",
            r"anti-affinity|pod affinity|topology spread",
            "no node satisfies the rules on which pods may stand together.",
            "loosen affinity or topologySpreadConstraints in pod_patch, run fewer replicas, or add a node",
            "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
            lasting=True,
        ),
        Case(
            "port",
            r"didn't have free ports",
            "the port that the pod wants of its node is taken on every node.",
            "take hostNetwork or hostPort out of pod_patch, or let another port be used",
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
            lasting=True,
        ),
        Case(
            "node-selector",
            r"node affinity/selector|node\(s\) didn't match|didn't satisfy",
            "no node has the labels that are asked for.",
            "check node_selector against kubectl get nodes --show-labels",
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            lasting=True,
        ),
        Case(
            "cpu-memory",
            r"insufficient (cpu|memory|ephemeral-storage)",
            "no node has enough free CPU or memory.",
            "lower cpu or memory, or add a node",
            "0/1 nodes are available: 1 Insufficient memory.",
            lasting=True,
        ),
        Case(
            "pods",
            r"too many pods|max volume count",
            "the nodes have as many pods or volumes as they may.",
            "add a node, or remove pods that nobody needs",
            "0/1 nodes are available: 1 Too many pods.",
            lasting=True,
        ),
        Case(
            "gated",
            None,
            "the pod is held back by a scheduling gate: {what}.",
            (
                "see what keeps it from who made the gate (a queue such as Kueue): kubectl -n {namespace} "
                "describe pod {name}"
            ),
            "PodScheduled is False: SchedulingGated",
            lasting=True,
            patience=60,
        ),
        Case(
            "other",
            r"",
            "no node can take the pod.",
            "look at what the scheduler says",
            "0/1 nodes are available: something that nobody has seen yet.",
            lasting=True,
            confidence="likely",
        ),
    ),
)


def unschedulable(pod: Object, context: Context) -> Iterator[Finding]:
    verdict = condition(pod, "PodScheduled")
    if verdict.get("status") != "False":
        return
    message, since = str(verdict.get("message") or ""), verdict.get("lastTransitionTime")
    evidence = [quote.condition("pod", pod, verdict)]
    if verdict.get("reason") == "SchedulingGated":
        gates = ", ".join(str(gate.get("name")) for gate in pod["spec"].get("schedulingGates") or ())
        if not context.young(since, RULE.case("gated")):
            yield RULE.finding("gated", evidence, pod, what=gates or "unknown")
        return
    known = RULE.first(message)
    if verdict.get("reason") not in ("Unschedulable", "SchedulerError") or known is None:
        return
    case, values = known
    what = values.get("what", "")
    if case.variant == "claim-unbound":
        said = of_claims(pod, context)
        evidence += said
        case = RULE.case("provisioning") if provisioning(said) else case
    elif case.variant == "claim-zone":
        evidence += _places(pod, context)
    elif case.variant == "taint":
        case, more = _by_taints(case, pod, context.around.nodes.values())
        evidence += more
    elif case.variant == "gpu" and _GPU_TAINT.search(message):
        case, more = _by_taints(RULE.case("taint"), pod, context.around.nodes.values())
        evidence += more
    elif case.variant in ("gpu", "cpu-memory"):
        case, more, values = _by_holders(case, pod, context, what, message)
        evidence += more
    if not context.young(since, case):
        yield RULE.finding(case, evidence, pod, **{"what": what, **values})


# -- claims


def of_claims(pod: Object, context: Context) -> list[str]:
    """What the cluster says of the pod's claims that are not bound."""
    return [text for name in mounted_claims(pod.get("spec", {})) for text in context.around.claims.get(name, ())]


def provisioning(said: Sequence[str]) -> bool:
    """Whether a provisioner is at work on the claim, and has not failed."""
    reasons = {text.partition(":")[0] for text in said}
    return "Provisioning" in reasons and "ProvisioningFailed" not in reasons


def _places(pod: Object, context: Context) -> list[str]:
    """Where the volumes of the pod's claims can be reached from."""
    found = []
    for claim in mounted_claims(pod.get("spec", {})):
        volume = context.around.volumes.get(claim, {})
        terms = volume.get("spec", {}).get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms") or ()
        rules = (rule for term in terms for rule in term.get("matchExpressions") or ())
        places = "; ".join(f"{rule.get('key')} {', '.join(rule.get('values') or ())}" for rule in rules)
        found += [f"volume {volume['metadata']['name']} of claim {claim} is bound to {places}"] if places else []
    return found


# -- taints


def _by_taints(case: Case, pod: Object, nodes: Iterable[Object]) -> tuple[Case, list[str]]:
    """Newer schedulers do not name the taints: the nodes do."""
    told = [
        (str(taint["key"]), taint, node["metadata"]["name"])
        for node in nodes
        for taint in capacity.untolerated(pod.get("spec", {}), node)
    ]
    evidence = [f"node {node} has the taint {key}={t.get('value', '')}:{t.get('effect')}" for key, t, node in told]
    for keys, variant in ((_LOST_TAINTS, "node-lost"), (_PRESSURE_TAINTS, "pressure")):
        if told and all(key in keys for key, *_rest in told):
            return RULE.case(variant), evidence
    return case, evidence


# -- who has what is missing


def _by_holders(
    case: Case, pod: Object, context: Context, what: str, message: str
) -> tuple[Case, list[str], dict[str, str]]:
    """Why there is not enough: who holds it, and for how long yet."""
    seen, missing = context.seen, what or "CPU or memory"
    held_by = [other for other in context.around.pods if what and _amount(other, what)]
    evidence = _holders(held_by, what)
    leaving = [
        other
        for other in (*seen.pods, *context.neighbours, *held_by)
        if "deletionTimestamp" in other["metadata"] and (not what or _amount(other, what))
    ]
    if leaving:
        holder = f"pod {leaving[0]['metadata']['name']} is ending and"
        return RULE.case("held"), evidence, {"holder": holder, "what": missing}
    mine = {other["metadata"].get("uid") for other in context.pods}
    old = [other for other in seen.pods if other["metadata"].get("uid") not in mine and _runs(other)]
    if old:
        variant = "surge" if _surges(seen.deployment) else "held"
        return RULE.case(variant), evidence, {"holder": f"the old pod {old[0]['metadata']['name']}", "what": missing}
    nodes = context.around.nodes.values()
    count = re.match(r"\d+/(\d+) nodes", message)
    if what and nodes and count and len(nodes) >= int(count[1]):
        offered = {node["metadata"]["name"]: _offered(node, what) for node in nodes}
        most, wanted = max(offered.values()), capacity.requests(pod["spec"])[what] // 1000
        evidence += [f"allocatable {what}: " + ", ".join(f"{name} {n}" for name, n in list(offered.items())[:HOLDERS])]
        values = {"most": str(most), "wanted": str(wanted), "what": what}
        if not most:
            return RULE.case("no-device-plugin"), evidence, values
        if wanted > most:
            return RULE.case("too-many-gpus"), evidence, values
        fitting = [node for node in nodes if _offered(node, what) >= wanted]
        if all(capacity.untolerated(pod["spec"], node) for node in fitting):
            tainted, more = _by_taints(RULE.case("taint"), pod, fitting)
            return tainted, evidence + more, values
    return case, evidence, {}


def _runs(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _offered(node: Object, resource: str) -> int:
    return int(str((node.get("status", {}).get("allocatable") or {}).get(resource, 0)))


def _amount(pod: Object, resource: str) -> int:
    """How much of an extended resource a pod that has its node holds, or will until its end."""
    spec = pod.get("spec", {})
    return 0 if not _runs(pod) or not spec.get("nodeName") else capacity.requests(spec)[resource] // 1000


def _holders(pods: Iterable[Object], what: str) -> list[str]:
    rows = sorted(((_amount(pod, what), _full_name(pod)) for pod in pods), key=lambda row: (-row[0], row[1]))
    if not rows:
        return []
    more = f" and {len(rows) - HOLDERS} more" if len(rows) > HOLDERS else ""
    return [f"{what} is held by " + ", ".join(f"{name} ({count})" for count, name in rows[:HOLDERS]) + more]


def _full_name(obj: Object) -> str:
    return f"{obj['metadata'].get('namespace')}/{obj['metadata']['name']}"


def _surges(deployment: Object | None) -> bool:
    """Whether the old pod goes only once the new one is ready: of one replica 25 %, the default, is none."""
    spec = (deployment or {}).get("spec", {})
    strategy = spec.get("strategy", {})
    if strategy.get("type") == "Recreate":
        return False
    allowed = str((strategy.get("rollingUpdate") or {}).get("maxUnavailable", "25%"))
    share = int(allowed.rstrip("%")) * (spec.get("replicas", 1) if allowed.endswith("%") else 100)
    return share < 100
