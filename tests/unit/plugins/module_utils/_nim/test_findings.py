# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Each cause in the words in which clusters tell it."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings
from ansible_collections.gpuops.nim.plugins.module_utils._nim.findings import find
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

SERVICE = scene.wanted()
PULL = (
    f'failed to pull and unpack image "{scene.IMAGE}": failed to resolve reference "{scene.IMAGE}": '
    "failed to authorize: failed to fetch {token} token: unexpected status from GET request to "
    "https://nvcr.io/proxy_auth?scope=repository%3Anim%2Fmeta%2Fllama3-8b-instruct%3Apull&service=registry: {status}"
)
HEAD = f'failed to resolve reference "{scene.IMAGE}": unexpected status from HEAD request to https://nvcr.io/v2/x: '

PULL_TEXTS = [  # text, variant, heals
    (PULL.format(token="oauth", status="401 Unauthorized"), "key", False),
    (PULL.format(token="oauth", status="402 Payment Required"), "entitlement", False),
    (PULL.format(token="oauth", status="403 Forbidden"), "right", False),
    (PULL.format(token="oauth", status="451 Unavailable For Legal Reasons"), "blocked", False),
    (PULL.format(token="anonymous", status="401 Unauthorized"), "no-secret", False),
    (PULL.format(token="anonymous", status="403 Forbidden"), "no-secret", False),
    (PULL.format(token="oauth", status="429 Too Many Requests"), "busy", True),
    (PULL.format(token="oauth", status="503 Service Unavailable"), "busy", True),
    (HEAD + "500 Internal Server Error", "busy", True),
    (f"{scene.IMAGE}: not found", "name", False),
    (HEAD + "404 Not Found", "name", False),
    # CRI-O
    ("unable to retrieve auth token: invalid username/password: authentication required", "key", False),
    ("Requesting bearer token: invalid status code from registry 402 (Payment Required)", "entitlement", False),
    ("reading manifest 9.9.9 in nvcr.io/nim/meta/llama3-8b-instruct: manifest unknown", "name", False),
    # docker
    ("Error response from daemon: unauthorized: authentication required", "key", False),
    ('denied: {"errors": [{"code": "DENIED", "message": "Access Denied"}]}', "right", False),
    # the way to the registry
    ('Get "https://nvcr.io/v2/": dial tcp 34.1.2.3:443: i/o timeout', "network", True),
    ('Get "https://nvcr.io/v2/": net/http: TLS handshake timeout', "network", True),
    ("dial tcp: lookup nvcr.io on 10.0.0.2:53: no such host", "dns", True),
    ("read tcp 10.0.0.1:4->34.1.2.3:443: read: connection reset by peer", "network", True),
    ("failed to pull: context deadline exceeded", "network", True),
    ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "certificate", False),
    ("write /var/lib/containerd/x: no space left on device", "disk", False),
    ("no match for platform in manifest: not found", "platform", False),
    ("something that nobody has seen yet", "unknown", True),
]


def only(seen, **more):
    found = find(seen, **more)
    assert len(found) == 1, found
    return found[0]


def failing(pod, *events, **more):
    return scene.observed(SERVICE, pods=[pod], events=list(events), **more)


@pytest.mark.parametrize(("text", "variant", "heals"), PULL_TEXTS)
@pytest.mark.parametrize("told", ["status", "event"])
def test_image_pull(text, variant, heals, told):
    """The kubelet's state says why at first; in its back-off, older ones only point to the event."""
    if told == "status":
        seen = failing(scene.pod(SERVICE, state=scene.waiting("ErrImagePull", text)))
    else:
        pod = scene.pod(SERVICE, state=scene.waiting("ImagePullBackOff", f'Back-off pulling image "{scene.IMAGE}"'))
        seen = failing(
            pod,
            scene.event(pod, "Failed", f'Failed to pull image "{scene.IMAGE}": {text}'),
            scene.event(pod, "Failed", "Error: ImagePullBackOff", at="2026-11-22T17:00:11Z"),
        )
    finding = only(seen)
    assert (finding.id, finding.variant, finding.heals) == ("image-pull-refused", variant, heals)
    assert any(text in line for line in finding.evidence)
    assert finding.remedy


def test_numbers_in_the_tag_are_no_status():
    image = "nvcr.io/nim/500:401"
    service = scene.wanted(image=image)
    text = f"{image}: unexpected status from HEAD request to https://nvcr.io/v2/nim/500/manifests/401: 404 Not Found"
    pod = scene.pod(service, state=scene.waiting("ErrImagePull", text))
    assert only(scene.observed(service, pods=[pod])).variant == "name"


def test_a_missing_pull_secret_is_named_instead_of_the_key():
    pod = scene.pod(SERVICE, state=scene.waiting("ErrImagePull", PULL.format(token="oauth", status="401 Unauthorized")))
    said = "Unable to retrieve some image pull secrets (ngc-secret); attempting to pull the image may not succeed."
    finding = only(failing(pod, scene.event(pod, "FailedToRetrieveImagePullSecret", said)))
    assert finding.variant == "no-secret"
    assert "ngc-secret" in finding.remedy
    assert "default" in finding.remedy


def test_invalid_image_name():
    assert only(failing(scene.pod(SERVICE, state=scene.waiting("InvalidImageName", "x")))).variant == "reference"


CRASH = {
    "state": scene.waiting("CrashLoopBackOff", "back-off 10s restarting failed container"),
    "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    "restartCount": 1,
}
NGC = (
    'Exception: Error {{ context: "fetching file map with bearer token", '
    'source: "HTTP status client error ({}) for url (https://api.ngc.nvidia.com/v2/x)" }}'
)
LOGS = [
    ("ValueError: bad", "exit", False),
    ("Exception: The requested operation requires an API key, but none was found", "key-missing", False),
    (NGC.format("401 Unauthorized"), "key", False),
    (NGC.format("402 Payment Required"), "entitlement", False),
    (NGC.format("403 Forbidden"), "right", False),
    (NGC.format("451 Unavailable For Legal Reasons"), "blocked", False),
    (NGC.format("503 Service Unavailable"), "busy", True),
    ('Error { ... "fetching file map with bearer token" ... InvalidHeaderValue }', "key-malformed", False),
    ("error sending request for url (https://api.ngc.nvidia.com/v2/org/nim)", "network", True),
    ("RuntimeError: Unable to write to NIM_CACHE_PATH (/mnt/models)", "cache-not-writable", False),
    ("No space left on device (os error 28)", "cache-full", False),
    (
        (
            "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9), "
            "error: No space left on device (28)"
        ),
        "share-memory",
        False,
    ),
    ("Could not find a profile that is currently runnable with the detected hardware.", "profile", False),
]


@pytest.mark.parametrize(("line", "variant", "heals"), LOGS)
def test_crash_loop(line, variant, heals):
    pod = scene.pod(SERVICE, **CRASH)
    log = "\n".join([*(f"line {n}" for n in range(40)), line])
    finding = only(failing(pod), logs={pod["metadata"]["uid"]: log})
    assert (finding.id, finding.variant, finding.heals) == ("crash-loop", variant, heals)
    assert f"log of pod {pod['metadata']['name']}: {line}" in finding.evidence
    assert len(finding.evidence) <= findings.LOG_LINES


def test_crash_loop_without_a_known_cause_shows_exit_code_and_log():
    pod = scene.pod(SERVICE, **CRASH)
    finding = only(failing(pod), logs={pod["metadata"]["uid"]: "one\n\ntwo\n"})
    assert "exit code 1" in finding.cause
    name = pod["metadata"]["name"]
    assert finding.evidence == (f"log of pod {name}: one", f"log of pod {name}: two")
    assert "kubectl -n default logs" in finding.remedy


def test_one_crash_alone_is_no_loop():
    status = {**CRASH, "state": scene.RUNNING}
    assert find(failing(scene.pod(SERVICE, **status))) == []


@pytest.mark.parametrize("code", [0, 137, 143])  # whoever obeys SIGTERM ends without an error
def test_startup_probe_ends_the_container(code):
    pod = scene.pod(SERVICE, **{**CRASH, "lastState": {"terminated": {"exitCode": code, "reason": "Error"}}})
    killing = scene.event(pod, "Killing", "Container kserve-container failed startup probe, will be restarted")
    finding = only(failing(pod, killing))
    assert finding.variant == "startup-probe"
    assert "startup_timeout" in finding.remedy


@pytest.mark.parametrize(("state", "heals"), [(scene.waiting("CrashLoopBackOff"), False), (scene.RUNNING, True)])
def test_out_of_memory(state, heals):
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    finding = only(failing(scene.pod(SERVICE, state=state, lastState=killed, restartCount=1)))
    assert (finding.id, finding.heals) == ("out-of-memory", heals)
    assert "32Gi" in finding.cause


def test_a_pod_that_is_ready_again_has_no_finding():
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    pod = scene.pod(SERVICE, state=scene.RUNNING, lastState=killed, restartCount=1, ready=True)
    assert find(failing(pod)) == []


SCHEDULER = [
    ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available", "gpu"),
    ("0/1 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}.", "taint"),
    ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", "node-selector"),
    ("0/1 nodes are available: 1 Insufficient memory.", "cpu-memory"),
    ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "claim-unbound"),
    ('0/1 nodes are available: persistentvolumeclaim "nim-model" not found.', "claim-missing"),
    ("0/1 nodes are available: 1 node(s) were unschedulable.", "cordoned"),
]


@pytest.mark.parametrize(("message", "variant"), SCHEDULER)
def test_unschedulable(message, variant):
    finding = only(failing(scene.pending_pod(SERVICE, 1, message)))
    assert ".." not in finding.cause
    assert (finding.id, finding.variant, finding.heals, finding.lasting) == ("unschedulable", variant, False, True)
    name = scene.pod(SERVICE)["metadata"]["name"]
    assert finding.evidence == (f"condition PodScheduled of pod {name} is False: Unschedulable: {message}",)


NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def rollout(service, old):
    return scene.observed(
        service,
        deployment=scene.deployment(service, revision=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[old, scene.pending_pod(service, 2, NO_GPU)],
    )


def test_a_gpu_that_an_ending_or_old_pod_holds_is_only_a_matter_of_time():
    ending = scene.ready_pod(SERVICE, 1)
    ending["metadata"]["deletionTimestamp"] = "2026-11-22T17:00:00Z"
    for seen in (rollout(SERVICE, ending), rollout(SERVICE, scene.ready_pod(SERVICE, 1))):
        finding = only(seen)
        assert (finding.variant, finding.heals) == ("held", True)
    alone = failing(scene.pending_pod(SERVICE, 1, NO_GPU))
    assert only(alone, neighbours=[ending]).heals
    assert not only(alone, neighbours=[scene.ready_pod(SERVICE, 1)]).heals


def test_surge_behind_the_only_gpu_never_ends():
    service = scene.wanted(update_strategy="surge")
    finding = only(rollout(service, scene.ready_pod(service, 1)))
    assert (finding.variant, finding.heals) == ("surge", False)
    assert "update_strategy: in_place" in finding.remedy


def test_of_one_replica_a_quarter_is_none_so_the_old_pod_stays_by_default():
    service = scene.wanted()
    service["spec"]["predictor"]["deploymentStrategy"] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }
    assert only(rollout(service, scene.ready_pod(service, 1))).variant == "surge"


CONFIG = [
    ('secret "nvidia-nim-secrets" not found', "secret", "nvidia-nim-secrets"),
    ("couldn't find key NGC_API_KEY in Secret default/nvidia-nim-secrets", "secret-key", "NGC_API_KEY"),
    ('configmap "settings" not found', "configmap", "settings"),
    ("container has runAsNonRoot and image will run as root", "run-as-root", "root"),
]


@pytest.mark.parametrize(("message", "variant", "word"), CONFIG)
def test_config_error(message, variant, word):
    finding = only(failing(scene.pod(SERVICE, state=scene.waiting("CreateContainerConfigError", message))))
    assert (finding.id, finding.variant, finding.heals) == ("config-error", variant, False)
    assert word in finding.cause


ADMISSION = [
    ('pods "x" is forbidden: exceeded quota: team-quota, requested: requests.nvidia.com/gpu=1', "quota", False),
    (
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'),
        "pod-security",
        False,
    ),
    ('pods "x" is forbidden: maximum memory usage per Container is 16Gi, but limit is 32Gi', "limit-range", False),
    (
        (
            "Internal error occurred: failed calling webhook "
            '"inferenceservice.kserve-webhook-server.pod-mutator": connection refused'
        ),
        "webhook-down",
        True,
    ),
    ('admission webhook "policy.example.com" denied the request: no', "webhook", False),
    (
        ('pods "x" is forbidden: error looking up service account default/nim: serviceaccount "nim" not found'),
        "service-account",
        False,
    ),
]


def refused(revision, message):
    conditions = [scene.condition("ReplicaFailure", reason="FailedCreate", message=message)]
    return {**scene.replicaset(revision), "status": {"conditions": conditions}}


def test_what_was_refused_to_an_older_revision_is_no_cause():
    """The Deployment's own condition still tells of it when the new ReplicaSet is well."""
    deployment = scene.deployment(SERVICE, revision=2)
    deployment["status"]["conditions"] = [scene.condition("ReplicaFailure", reason="FailedCreate", message="no")]
    sets = [refused(1, "violates PodSecurity"), scene.replicaset(2)]
    assert not find(scene.observed(SERVICE, deployment=deployment, replicasets=sets, pods=[]))


def test_the_remedy_for_pod_security_can_be_pasted():
    seen = scene.observed(SERVICE, replicasets=[refused(1, 'violates PodSecurity "restricted:latest"')], pods=[])
    lines = [line.strip() for line in only(seen).remedy.splitlines()]
    options = yaml.safe_load("\n".join(line for line in lines if line.startswith(("security_context:", "pod_patch:"))))
    assert options["security_context"]["runAsNonRoot"]
    assert options["pod_patch"]["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_kserve_says_what_it_may_not_make():
    message = 'fails to reconcile predictor: services "a-predictor" is forbidden: exceeded quota: tight, requested: 1'
    isvc = scene.live_isvc(SERVICE, "False")
    isvc["status"]["conditions"][1].update(reason="ReconcileFailed", message=message)
    finding = find(scene.observed(SERVICE, isvc=isvc, deployment=None), current=False)[0]
    assert (finding.id, finding.variant, finding.lasting) == ("kserve-refused", "quota", True)
    assert "describe quota tight" in finding.remedy
    isvc["status"]["conditions"][1]["message"] = "the object has been modified; please apply your changes"
    assert not find(scene.observed(SERVICE, isvc=isvc, deployment=None), current=False)


# -- what can only be told of a service that is late


def unscheduled(**more):
    pod = scene.pod(SERVICE)
    del pod["spec"]["nodeName"]
    pod["spec"].update(more)
    pod["status"] = {"phase": "Pending"}
    return pod


BEHIND = {**scene.deployment(SERVICE, generation=2), "status": {"observedGeneration": 1}}
CLAIM = {"volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}]}


@pytest.mark.parametrize(
    ("changes", "current", "variant"),
    [
        ({"deployment": None, "pods": []}, False, "kserve"),
        ({"pods": []}, False, "kserve"),
        ({"deployment": BEHIND, "pods": []}, False, "controller-manager"),
        ({"pods": []}, True, "controller-manager"),
        ({}, True, "kserve"),
        ({"pods": [unscheduled()]}, True, "scheduler"),
        ({"pods": [unscheduled(**CLAIM)]}, True, "claim"),
    ],
)
def test_who_has_not_acted_is_only_said_of_a_late_service(changes, current, variant):
    seen = scene.observed(SERVICE, isvc=scene.live_isvc(SERVICE, "False"), **changes)
    assert not find(seen, current=current)
    around = findings.Around(claims={"models": ["ExternalProvisioning: waiting"]})
    finding = find(seen, current=current, around=around)[0]
    assert (finding.id, finding.variant, finding.heals, finding.lasting) == ("controller-silent", variant, False, True)
    assert ("ExternalProvisioning: waiting" in finding.evidence) == (variant == "claim")


@pytest.mark.parametrize(
    "pod", [unscheduled(**CLAIM), scene.pending_pod(SERVICE, 1, "pod has unbound immediate PersistentVolumeClaims")]
)
def test_a_volume_that_is_being_made_is_waited_for(pod):
    pod["spec"].update(CLAIM)
    working = "Provisioning: External provisioner is provisioning volume"
    for said, waited in (([working], True), ([working, "ProvisioningFailed: quota"], False)):
        causes = find(failing(pod), around=findings.Around(claims={"models": said}))
        assert all(finding.heals for finding in causes) == waited


def test_a_pod_that_loads_blames_nobody_however_late_it_is():
    loading = scene.pod(SERVICE, state=scene.RUNNING)
    loading["status"]["startTime"] = "2026-11-22T17:00:02Z"
    node = {"metadata": {"name": "rehearsal"}, "status": {"conditions": [scene.condition("Ready")]}}
    assert not find(failing(loading), around=findings.Around(nodes={"rehearsal": node}))


def test_a_lost_node_is_told_by_the_node_or_by_what_became_of_the_pod():
    loading = scene.pod(SERVICE, state=scene.RUNNING)
    loading["status"]["startTime"] = "2026-11-22T17:00:02Z"
    verdict = scene.condition("Ready", "Unknown", reason="NodeStatusUnknown", message="Kubelet stopped posting.")
    node = {"metadata": {"name": "rehearsal"}, "status": {"conditions": [verdict]}}
    seen = failing(loading)
    finding = only(seen, around=findings.Around(nodes={"rehearsal": node}))
    assert (finding.id, finding.variant, finding.heals) == ("node-lost", "lost", True)
    assert "Kubelet stopped posting." in finding.evidence[0]
    assert "kubectl describe node rehearsal" in finding.remedy

    served = scene.pod(SERVICE, state=scene.RUNNING, ready=True)
    served["status"]["conditions"][1]["status"] = "False"
    assert only(failing(served, scene.event(served, "NodeNotReady", "Node is not ready"))).variant == "lost"
    back = scene.pod(SERVICE, state=scene.RUNNING)
    assert not find(failing(back, scene.event(back, "NodeNotReady", "Node is not ready")))


def test_a_pod_that_no_kubelet_has_seen():
    pod = scene.pod(SERVICE)
    pod["status"]["containerStatuses"] = []
    assert only(failing(pod), around=findings.Around()).variant == "kubelet"


def test_a_lost_node_is_not_taken_for_a_taint_to_tolerate():
    message = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s) "
    message += "{node.kubernetes.io/unreachable: }. no new claims to deallocate"
    assert only(failing(scene.pending_pod(SERVICE, 1, message))).variant == "node-lost"


def test_newer_schedulers_name_no_taint_so_the_nodes_are_asked():
    seen = failing(scene.pending_pod(SERVICE, 1, "0/2 nodes are available: 2 node(s) had untolerated taint(s)."))

    def node(name, *keys):
        taints = [{"key": key, "effect": "NoSchedule"} for key in keys]
        return {name: {"metadata": {"name": name}, "spec": {"taints": taints}}}

    lost, gpu = node("lost", "node.kubernetes.io/unreachable"), node("gpu", "nvidia.com/gpu")
    assert only(seen, around=findings.Around(nodes=lost)).variant == "node-lost"
    both = only(seen, around=findings.Around(nodes={**lost, **gpu}))
    assert both.variant == "taint"
    assert "node gpu has the taint nvidia.com/gpu=:NoSchedule" in both.evidence


def holder(name, count, **metadata):
    limits = {"limits": {"nvidia.com/gpu": str(count)}}
    spec = {"nodeName": "rehearsal", "containers": [{"name": "c", "resources": limits}]}
    return {"metadata": {"name": name, "namespace": "other", **metadata}, "spec": spec, "status": {"phase": "Running"}}


def test_who_holds_the_gpus_is_named_and_one_that_ends_is_waited_for():
    seen = failing(scene.pending_pod(SERVICE, 1, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."))
    pods = [holder("small", 1), holder("big", 4), holder("none", 0)]
    taken = only(seen, around=findings.Around(pods=pods))
    assert (taken.variant, taken.heals) == ("gpu", False)
    assert taken.evidence[1] == "nvidia.com/gpu is held by other/big (4), other/small (1)"
    ending = only(seen, around=findings.Around(pods=[*pods, holder("last", 2, deletionTimestamp="now")]))
    assert (ending.variant, ending.heals) == ("held", True)
    assert "last" in ending.cause


@pytest.mark.parametrize(("message", "variant", "heals"), ADMISSION)
def test_admission_refused(message, variant, heals):
    finding = only(scene.observed(SERVICE, replicasets=[refused(1, message)], pods=[]))
    assert (finding.id, finding.variant, finding.heals) == ("admission-refused", variant, heals)


def test_pods_of_an_old_revision_are_no_cause():
    seen = scene.observed(
        SERVICE,
        deployment=scene.deployment(SERVICE, revision=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[scene.pod(SERVICE, 1, state=scene.waiting("ErrImagePull", f"{scene.IMAGE}: not found"))],
    )
    assert find(seen) == []


SECRETS = [
    "nvapi-abcdefghijklmnopqrstuvwxyz0123456789",
    "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
    "Basic JG9hdXRodG9rZW46c2VjcmV0c2VjcmV0",
    "https://user:hunter22@proxy:3128/",
    "NGC_API_KEY=c2VjcmV0c2VjcmV0",
    '{"password": "c2VjcmV0c2VjcmV0"}',
    "hf_abcdefghijklmnop",
]


@pytest.mark.parametrize("text", SECRETS)
def test_evidence_holds_no_credentials(text):
    pod = scene.pod(SERVICE, **CRASH)
    line = only(failing(pod), logs={pod["metadata"]["uid"]: f"failed with {text} today"}).evidence[0]
    for secret in ("abcdefgh", "hunter22", "c2Vj", "eyJ", "c2ln", "JG9h"):
        assert secret not in line
    assert "failed with" in line


def test_what_is_no_credential_stays_readable():
    text = PULL.format(token="oauth", status="401 Unauthorized")
    assert findings.redact(text) == text


def test_final_causes_come_first_and_replicas_are_told_once():
    two = scene.wanted(min_replicas=2)
    text = PULL.format(token="oauth", status="401 Unauthorized")
    pods = [scene.pod(two, name=name, state=scene.waiting("ErrImagePull", text)) for name in ("a", "b")]
    pods.append(scene.pod(two, name="c", state=scene.waiting("ErrImagePull", "i/o timeout")))
    assert [finding.variant for finding in find(scene.observed(two, pods=pods))] == ["key", "network"]
