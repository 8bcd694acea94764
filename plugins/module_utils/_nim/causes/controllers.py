# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Somebody should have acted by now, and nothing says why not: a controller, or the kubelet of a node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches

from ..states import Object, condition, main_container, moment, newest_set, pod_events, set_aside, written
from . import quote
from .model import Case, Context, Finding, Rule, container_of, failed_probes
from .schedule import of_claims, provisioning

NAMED = 10  # so many services that are there are named where one is not

SILENT = Rule(
    "controller-silent",
    "A controller has not acted, and nothing says why. Only said of a service that has not changed for some seconds.",
    (
        Case(
            "kserve",
            None,
            "KServe's controller has not acted on the service.",
            (
                "see whether it runs: kubectl get pods -A -l control-plane=kserve-controller-manager; when it is back "
                "it goes on by itself"
            ),
            "the InferenceService has no Deployment",
            lasting=True,
            confidence="likely",
            patience=30,
        ),
        Case(
            "nim-operator",
            None,
            "the NIM Operator has not acted on the NIMService.",
            (
                "see whether it runs, and what its log says of this service: kubectl get pods -A -l "
                "app.kubernetes.io/name=k8s-nim-operator"
            ),
            "the NIMService has neither a Deployment nor a StatefulSet",
            lasting=True,
            confidence="likely",
        ),
        Case(
            "controller-manager",
            None,
            "Kubernetes has not acted on the Deployment.",
            "see whether kube-controller-manager runs: kubectl get --raw=/healthz, kubectl -n kube-system get pods",
            "the Deployment's observedGeneration is behind its generation",
            lasting=True,
            confidence="likely",
        ),
        Case(
            "scheduler",
            None,
            "the scheduler has not looked at the pod.",
            (
                "see whether kube-scheduler runs: kubectl -n kube-system get pods; pod_patch.schedulerName must be one "
                "that is"
            ),
            "the pod has no condition PodScheduled",
            lasting=True,
            confidence="likely",
        ),
        Case(
            "claim",
            None,
            "the scheduler waits for the volume of the cache claim, and nobody makes it.",
            (
                "see what the claim waits for: kubectl -n {namespace} describe pvc; the provisioner of its storage "
                "class must run"
            ),
            "the pod has no condition PodScheduled, and its claim's event ExternalProvisioning is the last",
            lasting=True,
            confidence="likely",
        ),
    ),
)


def not_acted_on(context: Context, current: bool) -> Iterator[Finding]:
    seen = context.seen
    if not context.late or seen.isvc is None:
        return
    deployment = seen.deployment
    if (deployment is None or not current) and _works_for_others(context, seen.isvc):
        return
    if deployment is None:
        yield SILENT.finding("kserve", ["there is no Deployment"], seen.isvc)
    elif deployment.get("status", {}).get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        yield SILENT.finding("controller-manager", ["the Deployment has not been taken over"], deployment)
    elif not current:
        yield SILENT.finding("kserve", ["the Deployment still has another specification"], seen.isvc)
    else:
        waiting = next((pod for pod in context.pods if not condition(pod, "PodScheduled")), None)
        if waiting is not None:
            said = of_claims(waiting, context)
            if not provisioning(said):
                evidence = said or [f"pod {waiting['metadata']['name']} has no verdict of the scheduler"]
                yield SILENT.finding("claim" if said else "scheduler", evidence, waiting)
        elif not seen.pods and deployment.get("spec", {}).get("replicas", 1):
            yield SILENT.finding("controller-manager", ["its pods have not been made"], deployment)
        elif context.pods and available(deployment) and condition(seen.isvc, "PredictorReady").get("status") != "True":
            evidence = ["the Deployment is available, and the InferenceService does not say so"]
            yield SILENT.finding("kserve", evidence, seen.isvc)


def _works_for_others(context: Context, isvc: Object) -> bool:
    """Whether KServe has more to do and will come to this one: others' pods are younger than what is wanted here."""
    wrote = written(isvc)
    made = (moment(pod["metadata"].get("creationTimestamp")) for pod in context.neighbours)
    young = context.young(wrote.isoformat(), SILENT.case("kserve")) if wrote else False
    return young or (wrote is not None and any(at > wrote for at in made if at))


ABSENT = Rule(
    "no-such-service",
    "A service that was asked for is not there.",
    (
        Case(
            "absent",
            None,
            "there is no service {what} where it was looked for.",
            (
                "look at the names of those that are there, and name its namespace if it is in another; a new one is "
                "deployed by `ansible-playbook gpuops.nim.site`"
            ),
            "neither an InferenceService nor a NIMService has the name",
        ),
    ),
)


def operator_silent(service: Object, said: str) -> Finding:
    """Say that nobody has acted on a NIMService. ``said``: what its conditions say."""
    return SILENT.finding("nim-operator", ["there is no Deployment", said], service)


def no_such_service(name: str, names: Sequence[str]) -> Finding:
    """Say that a service is not there. ``names``: of those that are."""
    close = " or ".join(get_close_matches(name, names, n=3))
    evidence = [f"did you mean {close}?"] if close else []
    evidence.append(f"services that are there: {', '.join(names[:NAMED]) or 'none'}")
    return ABSENT.finding("absent", evidence, what=name)


def available(deployment: Object) -> bool:
    """Whether all replicas are of the newest revision and available."""
    status, replicas = deployment.get("status", {}), deployment.get("spec", {}).get("replicas", 1)
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    return counts == [replicas] * 3


ROLLOUT = Rule(
    "rollout",
    "A rollout does not come to its end.",
    (
        Case(
            "deadline",
            None,
            "the rollout's progress deadline passed before the model was loaded.",
            (
                "in KServe's mode Standard the pods go on loading, so nothing; Knative gives the revision up: set the "
                "annotation serving.knative.dev/progress-deadline. A filled cache avoids it"
            ),
            "condition Progressing of the Deployment is False: ProgressDeadlineExceeded",
            heals=True,
            severity="warning",
        ),
        Case(
            "old-serves",
            None,
            "requests are still answered by the old revision, because the new one does not come up.",
            "see the other findings for why; to go back deploy the earlier specification again (another image, say)",
            "a pod of the old revision is ready, and none of the new one",
            heals=True,
            severity="warning",
        ),
        Case(
            "set-aside",
            None,
            "the pod that a key rotation has set aside still serves: the rotation was cut off, or is under way.",
            (
                "run it again, it goes on from there: ansible-playbook gpuops.nim.rotate_key. Or end the pod: kubectl "
                "-n {namespace} delete pod {name}"
            ),
            "a pod has the annotation gpuops.nim/set-aside, and all new ones are ready",
            lasting=True,
            confidence="likely",
        ),
    ),
)


_DEADLINE = "ProgressDeadlineExceeded"


def deadline(context: Context, stuck: Sequence[Object]) -> Iterator[Finding]:
    isvc, deployment = context.seen.isvc or {}, context.seen.deployment or {}
    given_up = condition(isvc, "PredictorReady")
    if given_up.get("status") == "False" and _DEADLINE in str(given_up.get("message")) and not deployment:
        case = replace(ROLLOUT.case("deadline"), heals=False, severity="error")
        yield ROLLOUT.finding(case, [quote.condition("InferenceService", isvc, given_up)], isvc)
        return
    progress, current = condition(deployment, "Progressing"), newest_set(context.seen)
    about = re.search(r'ReplicaSet "([^"]+)"', str(progress.get("message")))
    older = {found["metadata"]["name"] for found in context.seen.replicasets if found is not current}
    if stuck and progress.get("reason") == _DEADLINE and not (about and about[1] in older):
        yield ROLLOUT.finding("deadline", [quote.condition("Deployment", deployment, progress)], deployment)


def cut_off(context: Context, stuck: Sequence[Object]) -> Iterator[Finding]:
    aside = set_aside(context.seen.pods)
    if aside and context.pods and not stuck:  # else there is more to wait for
        yield ROLLOUT.finding("set-aside", [f"pod {aside[0]['metadata']['name']} was set aside"], aside[0])


# -- nodes

NODE = Rule(
    "node-lost",
    "A node, or the kubelet on it, does not answer, so its pods neither run nor end.",
    (
        Case(
            "lost",
            None,
            "node {node} does not answer.",
            (
                "see what happened to it: kubectl describe node {node}, and on the node: systemctl status "
                "kubelet. When "
                "it is back its pods go on, or end, by themselves; if it never comes back, kubectl delete node {node} "
                "gives them up"
            ),
            "condition Ready of the node is Unknown: NodeStatusUnknown: Kubelet stopped posting node status.",
            heals=True,
        ),
        Case(
            "kubelet",
            None,
            "the kubelet of node {node} has not taken the pod over.",
            (
                "see what happened to it: kubectl describe node {node}, and on the node: systemctl status "
                "kubelet. When "
                "it is back its pods go on, or end, by themselves; if it never comes back, kubectl delete node {node} "
                "gives them up"
            ),
            "the pod has a node, and neither a start time nor a container",
            heals=True,
            confidence="likely",
        ),
    ),
)


def node_lost(pod: Object, context: Context) -> Iterator[Finding]:
    name = pod.get("spec", {}).get("nodeName")
    if not name:
        return
    # who may not see nodes sees what Kubernetes did to the pod: not ready, though its container was, by the last report
    told = pod_events(pod, context.seen.events, "NodeNotReady")[-1:]
    if name in context.around.nodes:
        evidence = _unready(context.around.nodes[name])
    else:
        evidence = [quote.event(event) for event in told] if main_container(pod).get("ready") else []
    if evidence:
        yield NODE.finding("lost", evidence, pod, node=name)
    elif context.late and not pod.get("status", {}).get("startTime") and not main_container(pod):
        yield NODE.finding("kubelet", [f"pod {pod['metadata']['name']} has no start time"], pod, node=name)


def lost_node(node: Object) -> Finding | None:
    """What to say of pods on this node that neither run nor end; ``None`` while it is well."""
    evidence = _unready(node)
    return NODE.finding("lost", evidence, node, node=node["metadata"]["name"]) if evidence else None


def _unready(node: Object) -> list[str]:
    verdict = condition(node, "Ready")
    if verdict.get("status") == "True":
        return []
    if not verdict:
        return [f"node {node['metadata']['name']} has no condition Ready"]
    return [quote.condition("node", node, verdict)]


# -- unknown

UNKNOWN = Rule(
    "unknown",
    "Something is wrong that no rule knows. What was looked at stands in the evidence.",
    (
        Case(
            "unknown",
            None,
            "something keeps the service from answering, and it is not known here what.",
            (
                "look at the evidence, then kubectl -n {namespace} describe pod {name} and its log; please report the "
                "texts, so that a rule can be made of them"
            ),
            "a warning among the pod's events that no rule knows, and nothing else",
            heals=True,
            confidence="possible",
        ),
    ),
)
# Warnings that a normal deployment has, or that only say that another one goes on.
_NORMAL = frozenset(
    {
        "BackOff",
        "DNSConfigForming",
        "Failed",
        "FailedMount",
        "FailedScheduling",
        "MissingClusterDNS",
        "NodeNotReady",
        "ProbeWarning",
        "Unhealthy",
    }
)
_STARTING = ("ContainerCreating", "PodInitializing", "CrashLoopBackOff", None)


def unknown(pods: Sequence[Object], context: Context) -> Iterator[Finding]:
    """Only what shows that something is wrong: that it takes long is no fault."""
    if not context.late:
        return
    for pod in pods:
        status = main_container(pod)
        events = pod_events(pod, context.seen.events)
        warnings = [e for e in events if e.get("type") == "Warning" and e.get("reason") not in _NORMAL]
        # what has happened since shows that the pod got over it
        evidence = [quote.event(event) for event in warnings[-3:]] if events[-1:] == warnings[-1:] else []
        evidence += [quote.event(event) for event in _not_ready_any_more(pod, context)]
        waiting = status.get("state", {}).get("waiting", {}).get("reason")
        if waiting not in _STARTING:
            evidence.append(quote.container(pod, status))
        if pod.get("status", {}).get("phase") == "Unknown":
            evidence.append(f"pod {pod['metadata']['name']}: phase Unknown")
        if evidence:
            before = [quote.event(event) for event in events[-5:]]
            yield UNKNOWN.finding("unknown", dict.fromkeys([*evidence, *before]), pod)
            return


def _not_ready_any_more(pod: Object, context: Context) -> list[Object]:
    """The readiness probe is only asked once the startup probe was content: then the model had been loaded."""
    told = [event for event in failed_probes(pod, context) if "Readiness probe failed" in str(event.get("message"))]
    return told[-1:] if container_of(pod).get("startupProbe") else []
