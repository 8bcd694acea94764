# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Each case of each rule: what it is told by gives that finding and no other, and says it in whole sentences."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings, names, states
from ansible_collections.gpuops.nim.plugins.module_utils._nim.findings import Around, Finding
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

Object = dict[str, Any]
SERVICE = scene.wanted()
TEXTS = yaml.safe_load((Path(__file__).parent / "fixtures" / "finding_texts.yml").read_text())
RULES = {rule.id: rule for rule in findings.RULES}
NOW = datetime(2026, 11, 22, 17, 30, tzinfo=timezone.utc)  # half an hour after what scene has
CRASHED = {"exitCode": 1, "reason": "Error", "startedAt": "2026-11-22T17:00:15Z", "finishedAt": "2026-11-22T17:00:20Z"}
CREATING = scene.waiting("ContainerCreating")
GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
REFUSED = "failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized"


def stuck(pod: Object, *events: Object, **more: Any) -> list[Finding]:
    return findings.find(scene.observed(SERVICE, pods=[pod], events=list(events)), **more)


def up(*, around: Around, pod: Object | None = None, **changes: Any) -> list[Finding]:
    seen = scene.observed(SERVICE, pods=[pod or scene.ready_pod(SERVICE)], **changes)
    return findings.diagnose(seen, around=around, now=NOW)


def crashing(code: int = 1, **ended: Any) -> Object:
    last = {**CRASHED, "exitCode": code, **ended}
    return scene.pod(SERVICE, state=scene.waiting("CrashLoopBackOff"), lastState={"terminated": last}, restartCount=1)


def node(name: str = "rehearsal", gpus: int = 4, **status: Any) -> Object:
    ready = [scene.condition("Ready")]
    return {
        "metadata": {"name": name},
        "status": {"conditions": ready, "allocatable": {"nvidia.com/gpu": str(gpus)}, **status},
    }


def of_node(told: str) -> Object:
    reason, _, message = told.partition(": ")
    about = {"kind": "Node", "name": "rehearsal"}
    return {"metadata": {"name": "x"}, "involvedObject": about, "type": "Warning", "reason": reason, "message": message}


def named(name: str, **parts: Any) -> Object:
    metadata = {"name": name, "namespace": "default", "creationTimestamp": "2026-11-22T17:00:00Z"}
    return {"metadata": {**metadata, **parts.pop("metadata", {})}, **parts}


# -- what is told by a text


def of_pull(text: str) -> list[Finding]:
    in_status = stuck(scene.pod(SERVICE, state=scene.waiting("ErrImagePull", text)))
    pod = scene.pod(SERVICE, state=scene.waiting("ImagePullBackOff", f'Back-off pulling image "{scene.IMAGE}"'))
    failed = scene.event(pod, "Failed", f'Failed to pull image "{scene.IMAGE}": {text}')
    in_event = stuck(pod, failed, scene.event(pod, "Failed", "Error: ImagePullBackOff", at="2026-11-22T17:00:11Z"))
    assert [(f.id, f.variant) for f in in_event] == [(f.id, f.variant) for f in in_status]
    return in_event


def of_config(text: str) -> list[Finding]:
    return stuck(scene.pod(SERVICE, state=scene.waiting("CreateContainerConfigError", text)))


def of_log(text: str) -> list[Finding]:
    pod = crashing()
    log = "\n".join([*(f"INFO line {number}" for number in range(25)), text])
    return stuck(pod, logs={pod["metadata"]["uid"]: log})


def of_own_log(text: str) -> list[Finding]:
    pod = scene.pod(SERVICE, state=scene.RUNNING)
    return stuck(
        pod, around=Around(own_logs={pod["metadata"]["uid"]: f"INFO starts\n{text}"}, nodes={"rehearsal": node()})
    )


def of_probe(text: str) -> list[Finding]:
    pod = scene.pod(SERVICE, state=scene.RUNNING)
    return stuck(pod, scene.event(pod, "Unhealthy", text, at="2026-11-22T17:01:00Z"))


def of_event(text: str) -> list[Finding]:
    reason, _, message = text.partition(": ")
    pod = scene.pod(SERVICE, state=CREATING)
    return stuck(pod, scene.event(pod, reason, message))


def of_end(text: str) -> list[Finding]:
    reason, _, message = text.partition(": ")
    ended = scene.pod(SERVICE, name="ended")
    ended["status"] = {"phase": "Failed", "reason": reason, "message": message}
    return findings.find(scene.observed(SERVICE, pods=[ended, scene.pod(SERVICE, state=CREATING)]))


def of_scheduler(text: str) -> list[Finding]:
    return stuck(scene.pending_pod(SERVICE, 1, text))


def of_admission(text: str) -> list[Finding]:
    refusal = scene.condition("ReplicaFailure", reason="FailedCreate", message=text)
    return findings.find(
        scene.observed(SERVICE, replicasets=[{**scene.replicaset(), "status": {"conditions": [refusal]}}], pods=[])
    )


def of_kserve(text: str) -> list[Finding]:
    isvc = scene.live_isvc(SERVICE, "False")
    isvc["status"]["conditions"][1].update(reason="ReconcileFailed", message=text)
    return findings.find(scene.observed(SERVICE, isvc=isvc, deployment=None, replicasets=[], pods=[]), current=False)


def of_scaler(text: str) -> list[Finding]:
    reason, _, message = text.partition(": ")
    kind = "AbleToScale" if reason == "FailedGetScale" else "ScalingActive"
    verdict = scene.condition(kind, "False", reason=reason, message=message)
    return up(around=Around(autoscalers=[named("llama-hpa", status={"conditions": [verdict]})]))


def of_node_event(text: str) -> list[Finding]:
    return up(around=Around(nodes={"rehearsal": node()}, node_events=[of_node(text)]))


def of_requests(text: str) -> list[Finding]:
    pod = scene.ready_pod(SERVICE)
    return up(around=Around(own_logs={pod["metadata"]["uid"]: text}), pod=pod)


TOLD_BY: dict[str, Callable[[str], list[Finding]]] = {
    "image-pull-refused": of_pull,
    "config-error": of_config,
    "crash-loop": of_log,
    "loading": of_own_log,
    "probe": of_probe,
    "volume": of_event,
    "sandbox": of_event,
    "evicted": of_end,
    "unschedulable": of_scheduler,
    "admission-refused": of_admission,
    "kserve-refused": of_kserve,
    "scaling": of_scaler,
    "node-trouble": of_node_event,
    "serving": of_requests,
}
TOLD = [(rule, variant, text) for rule, cases in TEXTS.items() for variant, texts in cases.items() for text in texts]


@pytest.mark.parametrize(("rule", "variant", "text"), TOLD)
def test_a_text_gives_its_own_finding(rule, variant, text):
    found = TOLD_BY[rule](text)
    assert [(finding.id, finding.variant) for finding in found] == [(rule, variant)]
    assert any(line.strip() in quotation for line in text.splitlines() for quotation in found[0].evidence)
    assert_readable(found[0])


# -- what is told by other signs


def pull(reason: str, message: str = "x", **around: Any) -> list[Finding]:
    pod = scene.pod(SERVICE, state=scene.waiting(reason, message))
    return stuck(
        pod, scene.event(pod, "Pulling", "Pulling image"), around=Around(nodes={"rehearsal": node()}, **around)
    )


def verdict(answer: str) -> Object:
    return {"verdict": answer, "cause": f"NGC says {answer}", "remedy": "a new one"}


def held_by_old(strategy: str) -> list[Finding]:
    service = scene.wanted(update_strategy=strategy)
    return findings.find(
        scene.observed(
            service,
            deployment=scene.deployment(service, revision=2),
            replicasets=[scene.replicaset(1), scene.replicaset(2)],
            pods=[scene.ready_pod(service, 1), scene.pending_pod(service, 2, GPU)],
        )
    )


def unplaced(wanted: int, nodes: int) -> list[Finding]:
    pod = scene.pending_pod(scene.wanted(gpus=wanted), 1, GPU)
    return stuck(pod, around=Around(nodes={"rehearsal": node(gpus=nodes)}))


def provisioned() -> list[Finding]:
    pod = scene.pending_pod(SERVICE, 1, "pod has unbound immediate PersistentVolumeClaims")
    pod["spec"]["volumes"] = [{"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}]
    return stuck(pod, around=Around(claims={"models": ["Provisioning: External provisioner is provisioning volume"]}))


def gated() -> list[Finding]:
    pod = scene.pending_pod(SERVICE, 1, "Scheduling is blocked due to non-empty scheduling gates")
    pod["status"]["conditions"][0]["reason"] = "SchedulingGated"
    pod["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    return stuck(pod)


def starved() -> list[Finding]:
    around = Around(nodes={"rehearsal": node()}, node_events=[of_node("SystemOOM: System OOM encountered")])
    return stuck(crashing(137), around=around)


def probed(probe: str) -> list[Finding]:
    pod = crashing(137)
    return stuck(
        pod, scene.event(pod, "Killing", f"Container kserve-container failed {probe} probe, will be restarted")
    )


def without_lora() -> list[Finding]:
    pod = crashing()
    pod["spec"]["containers"] = copy.deepcopy(pod["spec"]["containers"])
    pod["spec"]["containers"][0]["env"].append({"name": "NIM_PEFT_SOURCE", "value": "/loras"})
    return stuck(pod, logs={pod["metadata"]["uid"]: "Could not match a profile in manifest"})


def repaired_key() -> list[Finding]:
    pod = crashing()
    around = Around(nodes={"rehearsal": node()}, secrets={"nvidia-nim-secrets": "2026-11-22T17:02:00Z"})
    return stuck(pod, logs={pod["metadata"]["uid"]: "status: 401 Unauthorized"}, around=around)


def repaired_secret() -> list[Finding]:
    message = "couldn't find key NGC_API_KEY in Secret default/nvidia-nim-secrets"
    pod = scene.pod(SERVICE, state=scene.waiting("CreateContainerConfigError", message))
    around = Around(nodes={"rehearsal": node()}, secrets={"nvidia-nim-secrets": "2026-11-22T17:02:00Z"})
    return stuck(pod, scene.event(pod, "Failed", f"Error: {message}"), around=around)


def invalid_spec(reason: str) -> list[Finding]:
    isvc = scene.live_isvc(SERVICE, "False")
    info = {"reason": reason, "message": "no runtime found to support predictor"}
    isvc["status"]["modelStatus"] = {"transitionStatus": "InvalidSpec", "lastFailureInfo": info}
    return findings.find(scene.observed(SERVICE, isvc=isvc, deployment=None, replicasets=[], pods=[]), current=False)


def silent(*, current: bool = True, **changes: Any) -> list[Finding]:
    seen = scene.observed(SERVICE, isvc=scene.live_isvc(SERVICE, "False"), **changes)
    return findings.find(seen, current=current, around=Around(claims={"models": ["ExternalProvisioning: waiting"]}))


def unscheduled(claim: str = "") -> Object:
    pod = scene.pending_pod(SERVICE, 1, "")
    pod["status"]["conditions"] = []
    if claim:
        pod["spec"]["volumes"] = [{"name": "cache", "persistentVolumeClaim": {"claimName": claim}}]
    return pod


def on_lost_node() -> list[Finding]:
    gone = scene.condition("Ready", "Unknown", reason="NodeStatusUnknown", message="Kubelet stopped posting.")
    around = Around(nodes={"rehearsal": node(conditions=[gone])})
    return stuck(scene.pod(SERVICE, state=scene.waiting("CrashLoopBackOff")), around=around)


def without_kubelet() -> list[Finding]:
    pod = scene.pod(SERVICE)
    pod["status"]["containerStatuses"] = []
    return stuck(pod, around=Around(nodes={"rehearsal": node()}))


def slow() -> list[Finding]:
    exceeded = 'ReplicaSet "rs-1" has timed out progressing.'
    progress = scene.condition("Progressing", "False", reason="ProgressDeadlineExceeded", message=exceeded)
    deployment = scene.deployment(SERVICE, conditions=[progress])
    pods = [scene.pod(SERVICE, state=scene.RUNNING)]
    return findings.find(scene.observed(SERVICE, deployment=deployment, pods=pods))


def old_serves() -> list[Finding]:
    seen = scene.observed(
        SERVICE,
        deployment=scene.deployment(SERVICE, revision=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[scene.ready_pod(SERVICE, 1), scene.pod(SERVICE, 2, state=scene.waiting("ErrImagePull", REFUSED))],
    )
    cause, *rest = findings.diagnose(seen, around=Around(), now=NOW)
    assert (cause.id, cause.variant) == ("image-pull-refused", "key")
    return rest


def cut_off() -> list[Finding]:
    old, young = scene.ready_pod(SERVICE, name="old"), scene.ready_pod(SERVICE)
    del old["metadata"]["labels"][states.TEMPLATE_HASH]
    old["metadata"]["annotations"] = {names.ASIDE_ANNOTATION: "{}"}
    loading = scene.observed(SERVICE, pods=[scene.pod(SERVICE, state=scene.RUNNING), old])
    assert findings.find(loading) == []
    return findings.find(scene.observed(SERVICE, pods=[young, old]))


def restarting() -> list[Finding]:
    again = {"running": {"startedAt": "2026-11-22T17:25:00Z"}}
    pod = scene.pod(SERVICE, ready=True, state=again, lastState={"terminated": CRASHED}, restartCount=7)
    pod["status"]["conditions"][1]["lastTransitionTime"] = "2026-11-22T17:26:00Z"
    return up(around=Around(), pod=pod)


def endpoints(*slices: Object) -> Around:
    service = named(
        "llama3-8b-instruct-predictor", spec={"selector": {"app": "other"}, "ports": [{"targetPort": "http1"}]}
    )
    whole = named("llama3-8b-instruct", spec={"type": "ExternalName"})
    return Around(services=[service, whole], endpoint_slices=slices)


def endpoint_slice(ready: bool, ports: list[Object]) -> Object:
    label = {"labels": {"kubernetes.io/service-name": "llama3-8b-instruct-predictor"}}
    return named("x", metadata=label, endpoints=[{"conditions": {"ready": ready}}], ports=ports)


def ingress(class_name: str = "", address: str = "") -> list[Object]:
    spec = {"ingressClassName": class_name} if class_name else {}
    points = [{"ip": address}] if address else []
    return [named("llama3-8b-instruct", spec=spec, status={"loadBalancer": {"ingress": points}})]


CONTOUR = {"metadata": {"name": "contour"}}


def way_in() -> list[Finding]:
    isvc = scene.live_isvc(SERVICE)
    isvc["status"]["conditions"][0] = scene.condition(
        "IngressReady", "False", reason="HttpRouteNotReady", message="no parent"
    )
    return up(around=Around(), isvc=isvc)


def fight(**changes: Any) -> list[Finding]:
    deployment = scene.deployment(SERVICE, generation=41)
    writes = [
        ("kserve-controller", "", "17:29:30"),
        ("argocd-application-controller", "", "17:29:40"),
        ("kcm", "status", "17:29:50"),
    ]
    deployment["metadata"].update(
        creationTimestamp="2026-11-22T17:00:00Z",
        managedFields=[
            {"manager": who, "subresource": part, "time": f"2026-11-22T{at}Z", "fieldsV1": {"f:spec": {}}}
            for who, part, at in writes
        ],
    )
    deployment["metadata"].update(changes)
    return up(around=Around(), deployment=deployment)


def strange() -> list[Finding]:
    pod = scene.pod(SERVICE, state=CREATING)
    pod["status"]["startTime"] = "2026-11-22T17:00:02Z"
    event = {**scene.event(pod, "FailedPrepareDynamicResources", "claim x: driver y"), "type": "Warning"}
    return stuck(pod, event, around=Around(nodes={"rehearsal": node()}))


BEHIND = {**scene.deployment(SERVICE, generation=2), "status": {"observedGeneration": 1}}
SIGNS: dict[tuple[str, str], Callable[[], list[Finding]]] = {
    ("image-pull-refused", "expired"): lambda: pull("ErrImagePull", REFUSED, verdict=verdict("expired")),
    ("image-pull-refused", "reference"): lambda: pull("InvalidImageName"),
    ("image-pull-refused", "never"): lambda: pull("ErrImageNeverPull"),
    ("image-pull-refused", "signature"): lambda: pull("SignatureValidationFailed"),
    ("image-pull-refused", "stale"): lambda: pull(
        "ErrImagePull", REFUSED, secrets={"ngc-secret": "2026-11-22T17:02:00Z"}
    ),
    ("config-error", "stale"): repaired_secret,
    ("out-of-memory", "memory-limit"): lambda: stuck(crashing(137, reason="OOMKilled")),
    ("out-of-memory", "node"): starved,
    ("crash-loop", "lora-profile"): without_lora,
    ("crash-loop", "startup-probe"): lambda: probed("startup"),
    ("crash-loop", "liveness-probe"): lambda: probed("liveness"),
    ("crash-loop", "stale"): repaired_key,
    ("crash-loop", "ended"): lambda: stuck(crashing(0, reason="Completed")),
    ("unschedulable", "provisioning"): provisioned,
    ("unschedulable", "held"): lambda: held_by_old("in_place"),
    ("unschedulable", "surge"): lambda: held_by_old("surge"),
    ("unschedulable", "no-device-plugin"): lambda: unplaced(1, 0),
    ("unschedulable", "too-many-gpus"): lambda: unplaced(8, 4),
    ("unschedulable", "gated"): gated,
    ("kserve-refused", "runtime"): lambda: invalid_spec("NoSupportingRuntime"),
    ("kserve-refused", "specification"): lambda: invalid_spec("InvalidPredictorSpec"),
    ("controller-silent", "kserve"): lambda: silent(current=False, deployment=None, pods=[]),
    ("controller-silent", "nim-operator"): lambda: [findings.operator_silent({"metadata": {"name": "nim"}}, "")],
    ("no-such-service", "absent"): lambda: [findings.no_such_service("lama", ["llama"])],
    ("controller-silent", "controller-manager"): lambda: silent(current=False, deployment=BEHIND, pods=[]),
    ("controller-silent", "scheduler"): lambda: silent(pods=[unscheduled()]),
    ("controller-silent", "claim"): lambda: silent(pods=[unscheduled("models")]),
    ("node-lost", "lost"): on_lost_node,
    ("node-lost", "kubelet"): without_kubelet,
    ("rollout", "deadline"): slow,
    ("rollout", "old-serves"): old_serves,
    ("rollout", "set-aside"): cut_off,
    ("serving", "restarting"): restarting,
    ("serving", "no-service"): lambda: up(around=Around(services=[])),
    ("serving", "no-endpoints"): lambda: up(around=endpoints(endpoint_slice(False, [{"port": 8000}]))),
    ("serving", "no-port"): lambda: up(around=endpoints(endpoint_slice(True, []))),
    ("ingress", "class-missing"): lambda: up(
        around=Around(ingresses=ingress("nginx", "10.0.0.1"), ingress_classes=[CONTOUR])
    ),
    ("ingress", "no-class"): lambda: up(around=Around(ingresses=ingress(), ingress_classes=[CONTOUR])),
    ("ingress", "no-address"): lambda: up(around=Around(ingresses=ingress("contour"), ingress_classes=[CONTOUR])),
    ("ingress", "not-ready"): way_in,
    **{
        ("key", answer.replace("_", "-")): lambda answer=answer: up(around=Around(verdict=verdict(answer)))
        for answer in ("invalid", "expired", "not_entitled", "blocked", "no_such_image")
    },
    ("key", "no-secret"): lambda: up(
        around=Around(secrets={"ngc-secret": "", "nvidia-nim-secrets": "2026-11-22T17:00:00Z"})
    ),
    ("ownership", "fight"): fight,
    ("unknown", "unknown"): strange,
}


@pytest.mark.parametrize(("rule", "variant"), SIGNS)
def test_signs_give_their_own_finding(rule, variant):
    found = SIGNS[rule, variant]()
    assert [(finding.id, finding.variant) for finding in found] == [(rule, variant)]
    assert found[0].evidence
    assert_readable(found[0])


# -- the tables


def assert_readable(finding: Finding) -> None:
    """Whole sentences: every placeholder is filled in, and an unknown word leaves no gap."""
    for text in (finding.cause, finding.remedy):
        assert not re.search(r"\{[a-z]*\}|\S  +\S| [.,;]|\( ?\)|\bNone\b", text), text
        assert not re.search(r"\b(of|the|and|-n) *([.,;]|describe|get|delete|logs|patch|$)", text), text
    assert finding.cause.endswith(".")
    assert "\n" not in finding.cause
    assert not finding.remedy.endswith(".")
    assert finding.severity in ("error", "warning")
    assert finding.confidence in ("certain", "likely", "possible")
    assert finding.docs.endswith(f"docs/findings.md#{finding.id}-{finding.variant}")


def test_every_case_is_shown_by_a_fixture():
    known = {(rule.id, case.variant) for rule in findings.RULES for case in rule.cases}
    assert {(rule, variant) for rule, variant, _text in TOLD} | set(SIGNS) == known


@pytest.mark.parametrize("rule", findings.RULES, ids=lambda rule: rule.id)
def test_the_example_of_a_case_is_told_by_its_own_pattern(rule):
    assert len({case.variant for case in rule.cases}) == len(rule.cases)
    for case in rule.cases:
        if case.pattern:
            known = rule.first(case.looks)
            assert known, case.variant
            assert known[0].variant == case.variant


def alternatives(pattern: str) -> list[str]:
    """The parts of a pattern between the bars that stand outside of all brackets."""
    parts, depth, in_set = [""], 0, False
    for token in re.findall(r"\\.|.", pattern):
        if in_set:
            in_set = token != "]"
        elif token == "[":
            in_set = True
        elif token in "()":
            depth += 1 if token == "(" else -1
        if token == "|" and not depth and not in_set:
            parts.append("")
        else:
            parts[-1] += token
    return parts


@pytest.mark.parametrize("rule", findings.RULES, ids=lambda rule: rule.id)
def test_every_alternative_of_a_pattern_is_shown_by_a_text(rule):
    for case in rule.cases if rule.id != "loading" else ():  # it has the patterns of crash-loop
        shown = [text for told, variant, text in TOLD if (told, variant) == (rule.id, case.variant)]
        for part in alternatives(case.pattern or ""):
            assert any(re.search(part, text, re.I) for text in [*shown, case.looks]), part


def test_only_the_last_case_of_a_rule_takes_the_rest():
    for rule in findings.RULES:
        assert [case.pattern for case in rule.cases if case.pattern == ""] == [
            case.pattern for case in rule.cases[-1:] if case.pattern == ""
        ]


def test_ids_are_words_with_dashes():
    for rule in findings.RULES:
        for word in (rule.id, *(case.variant for case in rule.cases)):
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word)
