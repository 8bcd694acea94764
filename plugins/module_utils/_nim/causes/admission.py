# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The cluster refuses an object: a pod, or what KServe would make."""

from __future__ import annotations

from collections.abc import Iterator

from ..names import CONTAINER
from ..states import RECONCILE_FAILED, condition, newest_set
from . import quote
from .model import Case, Context, Finding, Rule

# Braces are doubled for str.format.
_RESTRICTED_POD = (
    "{{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {{type: RuntimeDefault}}}}"
)
_RESTRICTED_CONTAINER = (
    f"{{{{containers: [{{{{name: {CONTAINER}, "
    "securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}]}}"
)
PODS = Rule(
    "admission-refused",
    "The cluster refuses to make the pods: the ReplicaSet's condition `ReplicaFailure` is `True`.",
    (
        Case(
            "quota",
            r"exceeded quota: (?P<what>[\w.-]+)|failed quota: (?P<other>[\w.-]+)|must specify limits",
            "the namespace's quota {what} does not allow the pod.",
            (
                "raise the quota, lower cpu, memory or gpus, or end something else: kubectl -n {namespace} describe "
                "quota {what}"
            ),
            'pods "x" is forbidden: exceeded quota: team-quota, requested: requests.nvidia.com/gpu=1',
            lasting=True,
        ),
        Case(
            "pod-security",
            r"violates podsecurity|podsecurity",
            "the namespace's pod security level forbids the pod.",
            (
                "set what the message names, all of the level restricted being\n"
                f"    security_context: {_RESTRICTED_POD}\n"
                f"    pod_patch: {_RESTRICTED_CONTAINER}\n"
                "  (a user of another number where the cluster wants that), or lower the level: kubectl "
                "label namespace "
                "{namespace} pod-security.kubernetes.io/enforce=baseline --overwrite"
            ),
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        ),
        Case(
            "limit-range",
            r"(maximum|minimum) (cpu|memory|\S+) usage per|limitrange",
            "the namespace's LimitRange forbids the sizes.",
            "set cpu and memory within it: kubectl -n {namespace} describe limitrange",
            'pods "x" is forbidden: maximum memory usage per Container is 16Gi, but limit is 32Gi',
        ),
        Case(
            "webhook-down",
            r"failed call(ing)? (to call )?webhook(?: \"(?P<what>[^\"]+)\")?|failed to call webhook",
            "the webhook {what}, which must see every pod, does not answer.",
            (
                "look at the pods behind it: kubectl get "
                "validatingwebhookconfigurations,mutatingwebhookconfigurations, "
                "then its service; Kubernetes tries again by itself"
            ),
            'failed calling webhook "inferenceservice.kserve-webhook-server.pod-mutator": connect: connection refused',
            heals=True,
        ),
        Case(
            "webhook",
            r'admission webhook "(?P<what>[^"]+)" denied|validatingadmissionpolicy \'(?P<other>[^\']+)\'',
            "the policy {what} refuses the pod.",
            "do what its message asks for",
            'admission webhook "policy.example.com" denied the request: images must come from our mirror',
        ),
        Case(
            "service-account",
            r'serviceaccount "?(?P<what>[^" ]+)"? not found|error looking up service account \S*/(?P<other>\S+):',
            "the service account {what} does not exist.",
            "create it, or correct service_account_name",
            'pods "x" is forbidden: error looking up service account default/nim: serviceaccount "nim" not found',
        ),
        Case(
            "runtime-class",
            r'runtimeclass(?:\.node\.k8s\.io)? "?(?P<what>[^" ]*)"? not found|runtimeclass',
            "the RuntimeClass {what} does not exist.",
            "create it, or take runtimeClassName out of pod_patch",
            'pods "x" is forbidden: pod rejected: RuntimeClass "nvidia" not found',
        ),
        Case(
            "priority-class",
            r"no priorityclass(?: with name (?P<what>\S+))?",
            "the PriorityClass {what} does not exist.",
            "create it, or correct it in pod_patch",
            'pods "x" is forbidden: no PriorityClass with name high was found',
        ),
        Case(
            "invalid",
            r"\bis invalid: ",
            "the pod's specification is not valid.",
            "correct what the message names; what pod_patch adds is not checked before",
            (
                'Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "64Gi": must be less '
                "than or equal"
            ),
        ),
        Case(
            "other",
            r"",
            "the cluster refuses to make the pods.",
            "do what the message asks for",
            'pods "x" is forbidden: a reason that nobody has seen yet',
            lasting=True,
            confidence="likely",
        ),
    ),
)


def pods_refused(context: Context) -> Iterator[Finding]:
    # the Deployment's own condition may be that of an older ReplicaSet
    current = newest_set(context.seen)
    refusal = condition(current or {}, "ReplicaFailure")
    known = PODS.first(str(refusal.get("message") or ""))
    if current is not None and refusal.get("status") == "True" and known:
        case, values = known
        evidence = [quote.condition("ReplicaSet", current, refusal)]
        yield PODS.finding(case, evidence, context.seen.deployment, **{"what": values.get("other", ""), **values})


KSERVE = Rule(
    "kserve-refused",
    "KServe can't do its part: `PredictorReady` says `ReconcileFailed`, or `modelStatus` says `InvalidSpec`.",
    (
        Case(
            "quota",
            r"exceeded quota: (?P<what>[\w.-]+)",
            "KServe can't make the service's objects: the namespace's quota {what} is used up.",
            "raise the quota, or remove what is not needed: kubectl -n {namespace} describe quota {what}",
            'fails to reconcile predictor: services "a-predictor" is forbidden: exceeded quota: tight, requested: 1',
            lasting=True,
        ),
        Case(
            "knative",
            r"must not set the field",
            "Knative, with which KServe runs this service, does not take such a pod.",
            (
                "switch on what the message names in Knative's ConfigMap config-features "
                "(kubectl -n knative-serving edit configmap config-features), or use KServe's mode Standard"
            ),
            'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation '
            "failed: must not "
            "set the field(s): spec.template.spec.nodeSelector",
            lasting=True,
        ),
        Case(
            "clash",
            r"field is immutable|already exists|is invalid: spec\.selector",
            "KServe can't make the service's objects: another one of that name is in the way.",
            "remove what the message names if nobody needs it, or take another name for the service",
            'Deployment.apps "llama-predictor" is invalid: spec.selector: Invalid value: field is immutable',
            lasting=True,
        ),
        Case(
            "webhook-down",
            r"failed calling webhook(?: \"(?P<what>[^\"]+)\")?|failed to call webhook",
            "the webhook {what}, which must see what KServe makes, does not answer.",
            "look at the pods behind it; KServe tries again by itself",
            (
                'Internal error occurred: failed calling webhook "validate.nginx.ingress.kubernetes.io": '
                "connection refused"
            ),
            heals=True,
            lasting=True,
        ),
        Case(
            "forbidden",
            r"\bforbidden\b|denied the request",
            "KServe may not make the service's objects.",
            "do what the message asks for; KServe tries again by itself, and at once when this is run again",
            'ingresses.networking.k8s.io is forbidden: User "system:serviceaccount:kserve:x" cannot create resource',
            lasting=True,
        ),
        Case(
            "missing-api",
            r"no matches for kind \"(?P<what>\w+)\"|the server could not find the requested resource",
            "KServe is set up to make objects of a kind that the cluster does not have: {what}.",
            (
                "install what the kind belongs to, or change KServe's ConfigMap inferenceservice-config (ingress, "
                "deploy, autoscaler)"
            ),
            'no matches for kind "HTTPRoute" in version "gateway.networking.k8s.io/v1"',
            lasting=True,
        ),
        Case(
            "runtime",
            None,
            "KServe has no serving runtime for the model.",
            "see kubectl get clusterservingruntimes,servingruntimes -A; predictor.model.runtime must name one of them",
            "modelStatus: InvalidSpec, NoSupportingRuntime",
            lasting=True,
        ),
        Case(
            "specification",
            None,
            "KServe refuses the specification.",
            "correct what the message names",
            "modelStatus: InvalidSpec, InvalidPredictorSpec",
            lasting=True,
        ),
        Case(
            "other",
            r"",
            "KServe can't make the service's objects.",
            "look at the message and at KServe's log; it tries again by itself, and at once when this is run again",
            "fails to reconcile predictor: an error that nobody has seen yet",
            lasting=True,
            confidence="likely",
        ),
    ),
)
_RACE = "the object has been modified"  # KServe lost a race and simply tries again
_RUNTIME = ("NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled")


def kserve_refused(context: Context) -> Iterator[Finding]:
    """What KServe says of itself; of what it may not make only since 0.17."""
    isvc = context.seen.isvc
    if isvc is None:
        return
    model = isvc.get("status", {}).get("modelStatus", {})
    if model.get("transitionStatus") == "InvalidSpec":
        info = model.get("lastFailureInfo") or {}
        said = ": ".join(str(info[key]) for key in ("reason", "message") if info.get(key))
        case = "runtime" if info.get("reason") in _RUNTIME else "specification"
        yield KSERVE.finding(case, [f"modelStatus of InferenceService {isvc['metadata']['name']}: {said}"], isvc)
        return
    refusal = condition(isvc, "PredictorReady")
    message = str(refusal.get("message") or "")
    if refusal.get("status") == "True" or refusal.get("reason") != RECONCILE_FAILED or _RACE in message:
        return
    known = KSERVE.first(message)
    if known:
        yield KSERVE.finding(known[0], [quote.condition("InferenceService", isvc, refusal)], isvc, **known[1])
