# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What is wrong with a service that is up: how requests reach it, how it scales, and what its next pod will meet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from ..states import Object, condition, ingress_address, main_container, moment
from . import quote
from .controllers import ROLLOUT, available
from .model import Case, Context, Finding, Rule, env_secrets, pull_secrets
from .start import after_a_fault

SERVING = Rule(
    "serving",
    "A service is up by its own account, and requests fail or go nowhere.",
    (
        Case(
            "restarting",
            None,
            "pod {name} is ready, but its container ends again and again: {times} restarts, the last run took {run}.",
            "read why it ended: kubectl -n {namespace} logs {name} -c {container} --previous",
            "a ready pod with three restarts or more, whose last run ended within ten minutes",
        ),
        Case(
            "no-service",
            None,
            "there is no Service in front of the pods, so nobody can reach them.",
            (
                "see whether KServe's controller runs; it makes {name}: kubectl get pods -A -l "
                "control-plane=kserve-controller-manager"
            ),
            "the pods are ready, and no Service has the label serving.kserve.io/inferenceservice",
            patience=60,
        ),
        Case(
            "no-endpoints",
            None,
            "the Service {name} sends nothing to the pods, although they are ready.",
            (
                "compare the Service's selector with the pods' labels: kubectl -n {namespace} get service "
                "{name} -o wide, "
                "kubectl -n {namespace} get pods --show-labels"
            ),
            "a pod is ready, and no EndpointSlice of the Service has a ready endpoint",
            patience=30,
        ),
        Case(
            "no-port",
            None,
            "the Service {name} points to a port that the pods do not have.",
            "let the container's port have the name or number that the Service's targetPort asks for",
            "an EndpointSlice with ready endpoints and without ports",
            patience=30,
        ),
        Case(
            "unknown-model",
            r"the model `?[^` ]+`? does not exist|model_not_found|model .{0,80}not found.{0,80}\b404\b",
            "requests ask for a model that the service does not have (404).",
            "use an id that /v1/models lists (the module returns it as model), or set NIM_SERVED_MODEL_NAME in env",
            'NotFoundError: The model `llama3` does not exist. "POST /v1/chat/completions HTTP/1.1" 404',
            severity="warning",
        ),
    ),
)
INGRESS = Rule(
    "ingress",
    "An Ingress leads to the service, and no controller serves it.",
    (
        Case(
            "class-missing",
            None,
            "the Ingress {name} asks for the class {what}, which the cluster does not have.",
            (
                "take one of kubectl get ingressclasses: ingress_class for our own Ingress, ingressClassName "
                "in KServe's "
                "ConfigMap inferenceservice-config for KServe's; or install the controller"
            ),
            "spec.ingressClassName of the Ingress is the name of no IngressClass",
        ),
        Case(
            "no-class",
            None,
            "the Ingress {name} has no class, and the cluster has no default one, so no controller takes it.",
            (
                "name one of kubectl get ingressclasses (ingress_class, or ingressClassName in KServe's ConfigMap "
                "inferenceservice-config), or make one the default"
            ),
            "no ingressClassName, and no IngressClass with ingressclass.kubernetes.io/is-default-class",
            confidence="likely",
        ),
        Case(
            "no-address",
            None,
            "no ingress controller has taken the Ingress {name}: it has no address.",
            "see whether the controller of its class runs, and what it logs: kubectl describe ingressclass {what}",
            "status.loadBalancer of the Ingress is empty",
            severity="warning",
            confidence="likely",
            patience=120,
        ),
        Case(
            "not-ready",
            None,
            "KServe does not get the way in to the service done.",
            "look at the message; for a gateway: kubectl -n {namespace} describe httproute, kubectl get gateways -A",
            "condition IngressReady of the InferenceService is False, although PredictorReady is True",
            heals=True,
            confidence="likely",
            patience=60,
        ),
    ),
)
SCALING = Rule(
    "scaling",
    "The HorizontalPodAutoscaler of the service does not do its work.",
    (
        Case(
            "no-metrics-api",
            r"no custom metrics api|no external metrics api|could not find the requested resource",
            "the autoscaler has nobody to ask: the cluster does not serve that kind of metrics.",
            (
                "install metrics-server (CPU and memory), or prometheus-adapter (what NIM measures): kubectl get "
                "apiservices | grep metrics"
            ),
            (
                "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) "
                "registered"
            ),
            severity="warning",
            patience=60,
        ),
        Case(
            "no-requests",
            r"missing request for",
            "the autoscaler can't compute a share: a container of the pod has no request for the resource.",
            "set cpu and memory for each container of the pod, side containers included",
            "failed to get cpu utilization: missing request for cpu in container proxy",
            severity="warning",
        ),
        Case(
            "no-target",
            r"failedgetscale|unable to get the target's current scale",
            "the autoscaler does not find what it is to scale.",
            (
                "let scaleTargetRef name the Deployment NAME-predictor; remove an autoscaler that is left of "
                "another service"
            ),
            'AbleToScale is False: FailedGetScale: deployments.apps "llama-predictor" not found',
            severity="warning",
        ),
        Case(
            "two-scalers",
            r"ambiguousselector|multiple hpas",
            "more than one autoscaler wants to set the number of pods.",
            (
                "keep one: kubectl -n {namespace} get hpa; with an own one the service needs the annotation "
                "serving.kserve.io/autoscalerClass: external"
            ),
            "ScalingActive is False: AmbiguousSelector: pods by selector are controlled by multiple HPAs",
        ),
        Case(
            "no-metrics",
            r"unable to get metric|did not receive metrics|no metrics returned|unable to fetch|failed to get|failedget",
            "the autoscaler gets no values, so the service keeps its size.",
            (
                "see that Prometheus scrapes the service (enable_prometheus) and that its adapter has a rule for the "
                "metric: kubectl get --raw /apis/custom.metrics.k8s.io/v1beta1"
            ),
            (
                "the HPA was unable to compute the replica count: unable to get metric num_requests_running: unable to "
                "fetch metrics from custom metrics API"
            ),
            severity="warning",
            patience=180,
        ),
        Case(
            "other",
            r"",
            "the autoscaler does not work.",
            "look at the message: kubectl -n {namespace} describe hpa {name}",
            "ScalingActive is False, for a reason that nobody has seen yet",
            severity="warning",
            confidence="possible",
            patience=180,
        ),
    ),
)
KEY = Rule(
    "key",
    "The key or a secret is no longer good for what runs with it: the next pod will not start.",
    (
        Case(
            "invalid",
            None,
            "the key is not valid any more; pods that run go on, a new one can't get the image.",
            "ansible-playbook gpuops.nim.rotate_key with a new key, before a pod has to be renewed",
            "the verdict of the key is invalid",
        ),
        Case(
            "expired",
            None,
            "the key has expired; pods that run go on, a new one can't get the image.",
            "ansible-playbook gpuops.nim.rotate_key with a new key, before a pod has to be renewed",
            "the verdict of the key is expired",
        ),
        Case(
            "not-entitled",
            None,
            "the key has no right to this image; pods that run go on, a new one can't get it.",
            "take a key of the organisation that has it: ansible-playbook gpuops.nim.rotate_key",
            "the verdict of the key is not_entitled",
        ),
        Case(
            "blocked",
            None,
            (
                "the image is not offered in this country or under these terms; pods that run go on, a new one "
                "can't get it."
            ),
            "accept the model's terms in the NGC catalog, or push the image to a mirror and set `image`",
            "the verdict of the key is blocked",
        ),
        Case(
            "no-such-image",
            None,
            "the registry no longer has this image or tag; pods that run go on, a new one can't get it.",
            "choose a tag that is there, and deploy it: ansible-playbook gpuops.nim.upgrade",
            "the verdict of the key is no_such_image",
        ),
        Case(
            "no-secret",
            None,
            "the secret {what}, which the pods name, does not exist; pods that run go on, a new one will not start.",
            "write it with nim_secret (namespaces: [{namespace}])",
            "a pull secret, or one of an environment variable, is not there",
        ),
    ),
)
FIGHT = Rule(
    "ownership",
    "Two programs want different things of the same object, and each undoes what the other did.",
    (
        Case(
            "fight",
            None,
            "{what} is written again and again, by {who}.",
            (
                "let one of them go, or keep the field out of its hands: two deployers (Argo CD, arena, "
                "kubectl), or an "
                "autoscaler beside KServe's own (annotation serving.kserve.io/autoscalerClass: external)"
            ),
            (
                "a generation that runs away, or two managers in metadata.managedFields that both wrote in the "
                "last minutes"
            ),
            confidence="likely",
        ),
    ),
)
NODE = Rule(
    "node-trouble",
    "A node on which a pod of the service runs is in trouble.",
    (
        Case(
            "gpu-fault",
            r"\bxid\b|gpu.{0,40}(fallen off|lost|unhealthy)|uncorrectable|nvlink",
            "node {node} reports a GPU fault.",
            (
                "look into its kernel log (dmesg | grep -i xid); keep new pods away (kubectl cordon {node}), and move "
                "the service before you reset the GPU"
            ),
            "event of node gpu-1: XidError: NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
            severity="warning",
            confidence="likely",
        ),
        Case(
            "disk",
            r"diskpressure|imagegcfailed|freediskspacefailed|evictionthresholdmet.{0,80}(storage|fs)",
            "the disk of node {node} is nearly full: it removes images, and then ends pods.",
            "free it, or enlarge it: a NIM image needs 20 GB and more unpacked, 100 GB free is a good measure",
            "event of node gpu-1: ImageGCFailed: wanted to free 10 GB, but freed 0",
            severity="warning",
            confidence="likely",
        ),
        Case(
            "memory",
            r"memorypressure|systemoom|evictionthresholdmet.{0,80}memory",
            "the memory of node {node} is nearly used up: it ends pods.",
            "see what uses it (kubectl top pods -A), and let requests be what is really used",
            "condition MemoryPressure of the node is True",
            severity="warning",
            confidence="likely",
        ),
    ),
)
RULES = (SERVING, INGRESS, SCALING, KEY, FIGHT, NODE)

SHORT = timedelta(minutes=10)  # a run that ended sooner than this is part of a loop
RESTARTS = 3
BURST = timedelta(minutes=3)  # two writers in a fight come this close to each other, and to now
GENERATIONS = 10  # more than a deployment and an autoscaler make
RATE = 3.0  # generations a minute


def problems(found: list[Finding], context: Context) -> Iterator[Finding]:
    """What is wrong though the pods are ready, and what will be wrong with the next.

    :param found: what keeps pods from being ready.
    """
    ready = [pod for pod in context.pods if condition(pod, "Ready").get("status") == "True"]
    for pod in ready:
        yield from _restarting(pod)
        yield from after_a_fault(pod, context)
    yield from _unknown_model(context)
    if ready:
        yield from _traffic(ready, context)
        yield from _ingress(ready, context)
        yield from _scaling(ready, context)
    yield from _key(found, ready, context)
    yield from _fights(context)
    yield from _nodes(context)
    yield from _old_serves(found, ready, context)


# -- pods


def _restarting(pod: Object) -> Iterator[Finding]:
    status = main_container(pod)
    last = status.get("lastState", {}).get("terminated", {})
    began, ended = moment(last.get("startedAt")), moment(last.get("finishedAt"))
    if status.get("restartCount", 0) < RESTARTS or began is None or ended is None or ended - began > SHORT:
        return
    again = moment(status.get("state", {}).get("running", {}).get("startedAt"))
    ready = moment(condition(pod, "Ready").get("lastTransitionTime"))
    if again is not None and ready is not None and ready < began and again > ended + SHORT:
        return
    evidence = f"container {status.get('name')} of pod {pod['metadata']['name']}: {last.get('reason', 'ended')}"
    yield SERVING.finding(
        "restarting",
        [f"{evidence}, exit code {last.get('exitCode')}, restarts: {status['restartCount']}"],
        pod,
        container=str(status.get("name")),
        times=str(status["restartCount"]),
        run=f"{int((ended - began).total_seconds())} s",
    )


def _unknown_model(context: Context) -> Iterator[Finding]:
    case = SERVING.case("unknown-model")
    for pod in context.pods:
        text = context.around.own_logs.get(str(pod["metadata"].get("uid")), "")
        lines = [line for line in text.splitlines() if re.search(str(case.pattern), line, re.I)]
        if lines:
            yield SERVING.finding(case, quote.log(pod, lines[-2:]), pod)
            return


def _old_serves(found: list[Finding], ready: list[Object], context: Context) -> Iterator[Finding]:
    new = {pod["metadata"].get("uid") for pod in context.pods}
    old = [
        pod
        for pod in context.seen.pods
        if pod["metadata"].get("uid") not in new
        and condition(pod, "Ready").get("status") == "True"
        and "deletionTimestamp" not in pod["metadata"]
    ]
    if old and not ready and any(finding.severity == "error" for finding in found):
        names = ", ".join(pod["metadata"]["name"] for pod in old)
        yield ROLLOUT.finding("old-serves", [f"ready, of the old revision: {names}"], context.seen.deployment)


# -- the way of a request


def _since(pods: Iterable[Object]) -> str:
    """When the first of these pods became ready."""
    return min(str(condition(pod, "Ready").get("lastTransitionTime", "")) for pod in pods)


def _traffic(ready: list[Object], context: Context) -> Iterator[Finding]:
    services, slices, isvc = context.around.services, context.around.endpoint_slices, context.seen.isvc
    since = _since(ready)
    if services is None or isvc is None:
        return
    if not services:
        if not context.young(since, SERVING.case("no-service")):
            about = {"metadata": {**isvc["metadata"], "name": f"{isvc['metadata']['name']}-predictor"}}
            yield SERVING.finding("no-service", [f"no Service of {isvc['metadata']['name']}"], about)
        return
    if slices is None or context.young(since, SERVING.case("no-endpoints")):
        return
    for service in services:
        name = service["metadata"]["name"]
        if not service.get("spec", {}).get("selector"):
            continue  # KServe's Service for the name of the whole only points to another
        mine = [s for s in slices if (s["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == name]
        served = [s for s in mine if any(_is_ready(endpoint) for endpoint in s.get("endpoints") or ())]
        selector = ", ".join(f"{key}={value}" for key, value in service["spec"]["selector"].items())
        if not served:
            evidence = [f"selector of Service {name}: {selector}", f"{len(mine)} EndpointSlices, no ready endpoint"]
            yield SERVING.finding("no-endpoints", evidence, service)
        elif not any(s.get("ports") for s in served):
            ports = ", ".join(str(port.get("targetPort")) for port in service["spec"].get("ports") or ())
            yield SERVING.finding("no-port", [f"targetPort of Service {name}: {ports}"], service)


def _is_ready(endpoint: Mapping[str, Any]) -> bool:
    return (endpoint.get("conditions") or {}).get("ready") is not False


def _ingress(ready: list[Object], context: Context) -> Iterator[Finding]:
    around, isvc = context.around, context.seen.isvc or {}
    classes = None if around.ingress_classes is None else {c["metadata"]["name"]: c for c in around.ingress_classes}
    for ingress in around.ingresses or ():
        metadata, spec = ingress["metadata"], ingress.get("spec", {})
        annotations = metadata.get("annotations") or {}
        wanted = spec.get("ingressClassName") or annotations.get("kubernetes.io/ingress.class") or ""
        old_way = not spec.get("ingressClassName") and bool(wanted)  # a controller may know a class by its name alone
        if classes is not None and wanted and wanted not in classes and not old_way:
            evidence = [
                f"Ingress {metadata['name']}: ingressClassName {wanted}",
                f"there are: {', '.join(classes) or 'none'}",
            ]
            yield INGRESS.finding("class-missing", evidence, ingress, what=str(wanted))
        elif ingress_address(ingress):
            continue
        elif classes is not None and not wanted and not any(_is_default(c) for c in classes.values()):
            yield INGRESS.finding("no-class", [f"Ingress {metadata['name']} has no class and no address"], ingress)
        elif not context.young(metadata.get("creationTimestamp"), INGRESS.case("no-address")):
            evidence = [f"Ingress {metadata['name']}: status.loadBalancer is empty"]
            yield INGRESS.finding("no-address", evidence, ingress, what=str(wanted))
    verdict, predictor = condition(isvc, "IngressReady"), condition(isvc, "PredictorReady")
    late = not context.young(predictor.get("lastTransitionTime"), INGRESS.case("not-ready"))
    if verdict.get("status") == "False" and predictor.get("status") == "True" and late and _settled(context):
        yield INGRESS.finding("not-ready", [quote.condition("InferenceService", isvc, verdict)], isvc)


def _settled(context: Context) -> bool:
    return context.seen.deployment is not None and available(context.seen.deployment)


def _is_default(ingress_class: Object) -> bool:
    annotations = ingress_class["metadata"].get("annotations") or {}
    return annotations.get("ingressclass.kubernetes.io/is-default-class") == "true"


# -- size


def _scaling(ready: list[Object], context: Context) -> Iterator[Finding]:
    scalers = context.around.autoscalers or ()
    for scaler in scalers:
        for kind in ("AbleToScale", "ScalingActive"):
            verdict = condition(scaler, kind)
            if verdict.get("status") != "False" or verdict.get("reason") == "ScalingDisabled":
                continue
            known = SCALING.first(f"{verdict.get('reason')}: {verdict.get('message')}")
            if known and not context.young(_since(ready), known[0]):
                evidence = [quote.condition("HorizontalPodAutoscaler", scaler, verdict)]
                yield SCALING.finding(known[0], evidence, scaler)
                break
    if len(scalers) > 1:
        names = ", ".join(scaler["metadata"]["name"] for scaler in scalers)
        yield SCALING.finding("two-scalers", [f"HorizontalPodAutoscalers of the Deployment: {names}"], scalers[0])


# -- what the next pod will meet


def _key(found: list[Finding], ready: list[Object], context: Context) -> Iterator[Finding]:
    if any(finding.id in ("image-pull-refused", "crash-loop", "config-error", "loading") for finding in found):
        return  # it has met it already
    verdict = context.around.verdict or {}
    variant = str(verdict.get("verdict", "")).replace("_", "-")
    isvc = context.seen.isvc
    if variant in {case.variant for case in KEY.cases if case.variant != "no-secret"}:
        yield KEY.finding(variant, [f"verdict of the key: {verdict['verdict']}: {verdict.get('cause', '')}"], isvc)
    named = dict.fromkeys(name for pod in ready for name in [*pull_secrets(pod["spec"]), *env_secrets(pod)])
    for name in named:
        if context.around.secrets.get(name) == "":
            yield KEY.finding("no-secret", [f"there is no secret {name}"], isvc, what=name)


# -- two writers


def _fights(context: Context) -> Iterator[Finding]:
    isvc, deployment = context.seen.isvc, context.seen.deployment
    if context.now is None or isvc is None:
        return
    wished = isvc["metadata"].get("generation", 0)
    for kind, obj, base in (("Deployment", deployment, wished), ("InferenceService", isvc, 0)):
        made = moment((obj or {}).get("metadata", {}).get("creationTimestamp"))
        if obj is None or made is None:
            continue
        writers = {who: at for who, at in _writers(obj).items() if context.now - at < BURST}
        count = obj["metadata"].get("generation", 0) - base
        minutes = max((context.now - made).total_seconds() / 60, 1)
        # one who is undone at once leaves no trace but the count
        running_away = bool(writers) and count >= GENERATIONS and count / minutes >= RATE
        scaled = any(who.endswith("/scale") for who in writers)  # an autoscaler's work, and somebody who has deployed
        in_turn = len(writers) > 1 and count >= 2 * GENERATIONS and not scaled
        if running_away or in_turn:
            who = " and ".join(sorted(who.partition("/")[0] for who in writers))
            who += "" if len(writers) > 1 else " and somebody whose change does not stay"
            evidence = [f"{kind} {obj['metadata']['name']}: generation {count + base} after {minutes:.0f} min"]
            evidence += [f"managedFields: {name} wrote at {at:%H:%M:%S}" for name, at in sorted(writers.items())]
            yield FIGHT.finding("fight", evidence, obj, what=f"the {kind} {obj['metadata']['name']}", who=who)
            return  # what becomes of the one becomes of the other


def _writers(obj: Object) -> dict[str, datetime]:
    """Who has written the specification, and when last."""
    found: dict[str, datetime] = {}
    for entry in obj["metadata"].get("managedFields") or ():
        at = moment(entry.get("time"))
        if at is None or entry.get("subresource") == "status" or "f:spec" not in (entry.get("fieldsV1") or {}):
            continue
        who = "/".join(str(entry[key]) for key in ("manager", "subresource") if entry.get(key))
        found[who] = max(at, found.get(who, at))
    return found


# -- nodes


def _nodes(context: Context) -> Iterator[Finding]:
    used = {str(pod.get("spec", {}).get("nodeName")) for pod in context.pods}
    said: list[tuple[str, str, str]] = []
    for name in sorted(used & set(context.around.nodes)):
        node = context.around.nodes[name]
        for kind in ("DiskPressure", "MemoryPressure"):
            verdict = condition(node, kind)
            if verdict.get("status") == "True":
                said.append((name, kind, quote.condition("node", node, verdict)))
    for event in context.around.node_events:
        name = str(event.get("involvedObject", {}).get("name"))
        if name in used and event.get("type") != "Normal":
            said.append((name, f"{event.get('reason')} {event.get('message')}", quote.event(event)))
    for name, text, quotation in said:
        known = NODE.first(text)
        if known:
            yield NODE.finding(known[0], [quotation], {"metadata": {"name": name}}, node=name)
