# SPDX-License-Identifier: GPL-3.0-or-later
"""nim_preflight on a real cluster: every failing check made real, nothing ever written."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil

import pytest
import yaml

from rehearsal.layout import NODE, url
from rehearsal.standins.ngc import KEYS
from tests.integration.conftest import LAYOUT

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
NGC = url("ngc", "https")
REGISTRY = {
    "registry_endpoints": dict.fromkeys(("nvcr.io", "api.ngc.nvidia.com", "authn.nvidia.com"), NGC),
    "registry_ca_cert": str(LAYOUT.ca),
}
GPU = "preflight.test/gpu"  # of this file alone, so that other tests' pods don't count
CHECKS = {"key", "cluster", "rights", "kserve", "ingress", "namespace", "secrets", "gpus", "model", "image", "pod"}
CHECKS |= {"storage", "admission"}
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 1, "gpu_resource": GPU}


def preflight(namespace, *services, **options):
    """The task; services beside SMALL options, or one that is in the options."""
    listed = {"services": list(services)} if services else {"name": "llama", "image": IMAGE}
    ingress = url("ingress").removeprefix("http://")
    given = {"namespace": namespace, "ingress_address": ingress, **SMALL, **REGISTRY, **listed, **options}
    return {"gpuops.nim.nim_preflight": given}


def found(result, check, status=None):
    """The rows of a check."""
    return [row for row in result["rows"] if row["check"] == check and status in (None, row["status"])]


def bad(result):
    return [(row["check"], row["status"], row["said"]) for row in result["rows"] if row["status"] != "ok"]


@pytest.fixture(scope="module", autouse=True)
def gpus(kubectl):
    """Two GPUs of a resource of our own."""
    path = "/" + GPU.replace("/", "~1")
    both = [{"op": "add", "path": f"/status/{part}{path}", "value": "2"} for part in ("capacity", "allocatable")]
    kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "-p", json.dumps(both))
    yield
    gone = [{"op": "remove", "path": f"/status/{part}{path}"} for part in ("capacity", "allocatable")]
    kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "-p", json.dumps(gone))


@pytest.fixture
def space(new_namespace):
    return new_namespace("preflight")


@pytest.fixture(scope="module")
def everything():
    """`with everything() as writes: ...`: requests of ours that were to change anything, anywhere."""

    @contextlib.contextmanager
    def everything():
        writes, start = [], LAYOUT.audit_log.stat().st_size
        yield writes
        with LAYOUT.audit_log.open("rb") as log:
            log.seek(start)
            for line in log:
                event = json.loads(line)
                uri = event["requestURI"]
                question = "selfsubject" in uri or "dryRun=All" in uri
                if event.get("userAgent") == "gpuops.nim" and event["verb"] not in ("get", "list", "watch"):
                    writes += [] if question else [f"{event['verb']} {uri}"]

    return everything


# -- all is well


def test_a_service_that_can_come(play, space, everything, in_all_ways):
    task = preflight(space, cache={"claim": "models", "size": "50Gi"})
    with everything() as writes:
        result = in_all_ways(task)
        assert in_all_ways(task, check=True)["rows"] == result["rows"]
    assert not bad(result)
    assert {row["check"] for row in result["rows"]} == CHECKS
    assert (result["failures"], result["role"], result["changed"]) == ([], "", False)
    assert "created in a dry run" in found(result, "admission")[0]["said"]
    assert not writes


def test_a_namespace_that_is_to_be_made(play, name_namespace, everything, kubectl):
    namespace = name_namespace("preflight-new")
    with everything() as writes:
        result = play(preflight(namespace, create_namespace=True)).result
    assert not bad(result)
    assert "not checked" in found(result, "admission")[0]["said"]
    assert not writes
    assert not kubectl("get", "namespace", "--ignore-not-found", namespace)


def test_bad_options_are_those_of_nim_kserve(play, space, audit):
    services = [{"name": "A_b", "image": "x y"}, {"name": "a" * 60, "image": IMAGE, "gpu": 2}]
    task = preflight(space, *services)
    options = {k: v for k, v in task["gpuops.nim.nim_preflight"].items() if k not in REGISTRY}
    with audit(space) as seen:
        ours, theirs = play(task, {"gpuops.nim.nim_kserve": options}, fails=True).results
    assert ours["msg"] == theirs["msg"]
    assert not seen.requests


# -- the key


@pytest.mark.parametrize(
    ("key", "status", "words"), [("wrong", "failure", "invalid"), ("expired", "failure", "expired")]
)
def test_a_key_that_will_not_do(play, space, everything, key, status, words):
    value = KEYS.get(key, "nvapi-rehearsal-wrong-0123456789abcdefghijklmnopqrstuvwxyz")
    with everything() as writes:
        result = play(preflight(space, ngc_api_key=value), fails=True).result
    (row,) = found(result, "key")
    assert (row["status"], row["subject"]) == (status, IMAGE)
    assert words in row["said"]
    assert row["remedy"]
    assert result["msg"].startswith(f"key: {IMAGE}")
    assert not writes


def test_a_registry_out_of_reach_is_no_bad_key(play, space):
    away = {"registry_endpoints": {"nvcr.io": "https://127.0.0.1:9"}, "registry_timeout": 2}
    result = play(preflight(space, **away)).result
    (row,) = found(result, "key")
    assert row["status"] == "warning"
    assert "could not be asked from here" in row["said"]
    assert not result["failures"]


def test_what_makes_the_task_fail(play, space):
    away = {"registry_endpoints": {"nvcr.io": "https://127.0.0.1:9"}, "registry_timeout": 2}
    assert "could not be asked" in play(preflight(space, fail_on="warning", **away), fails=True).result["msg"]
    assert play(preflight(space, fail_on="never", gpus=9)).result["failures"]


def test_a_login_that_is_in_the_cluster_alone(play, space, kubectl):
    """The pull secret of a mirror is somebody else's; what it holds is not looked at, so it is no bad key."""
    image = IMAGE.replace("nvcr.io", "mirror.example.com")
    login = {"host": "mirror.example.com", "username": "$oauthtoken", "password": KEYS["expired"]}
    mirror = {"image": image, "image_pull_secrets": ["mirror"], "registries": [login]}
    mirror["registry_endpoints"] = {"mirror.example.com": NGC}
    assert found(play(preflight(space, **mirror), fails=True).result, "key", "failure")
    kubectl("create", "secret", "docker-registry", "-n", space, "mirror", "--docker-username=a", "--docker-password=b")
    (row,) = found(play(preflight(space, **mirror)).result, "key", "warning")
    assert f"Secret {space}/mirror may hold more" in row["said"]


def test_what_is_free_on_the_disk_is_asked_of_the_kubelet(play, space):
    """By a name under which the node doesn't have the image."""
    endpoints = {**REGISTRY["registry_endpoints"], "mirror.example.com": NGC}
    login = {"registries": [{"host": "mirror.example.com", "password": KEYS["valid"]}]}
    image = IMAGE.replace("nvcr.io", "mirror.example.com")
    result = play(preflight(space, image=image, registry_endpoints=endpoints, **login), fails=None).result
    (row,) = found(result, "image")
    (free,) = re.findall(rf"; ([0-9.]+) GB are free on {NODE}$", row["said"])
    assert abs(float(free) - shutil.disk_usage(LAYOUT.state).free / 1e9) < 5


def test_an_image_that_nobody_pulls(play, space):
    result = play(preflight(space, image_pull_policy="Never", ngc_api_key=KEYS["expired"])).result
    assert found(result, "key")[0]["said"].startswith("not asked")


# -- the cluster


def test_no_way_to_the_cluster(play):
    task = preflight("default", host="https://127.0.0.1:9", kubeconfig=None)
    result = play(task, fails=True, env={"K8S_AUTH_KUBECONFIG": ""}).result
    (row,) = found(result, "cluster")
    assert row["status"] == "failure"
    assert "can't be reached" in row["said"]
    assert {row["check"] for row in result["rows"]} == {"key", "cluster"}


def test_another_namespace_for_kserve(play, space):
    (row,) = found(play(preflight(space, kserve_namespace="default"), fails=True).result, "kserve")
    assert "kserve_namespace" in row["remedy"]


# -- rights


@pytest.fixture
def limited(space, kubectl):
    """Somebody with no right at all; what he was given goes in the end."""
    name = f"preflight-{space.rpartition('-')[2]}"
    yield name
    for kind in ("clusterrolebinding", "clusterrole"):
        kubectl("delete", kind, "--ignore-not-found", f"gpuops-nim-{name}")
    for kind in ("rolebinding", "role"):
        kubectl("delete", kind, "--namespace=kserve", "--ignore-not-found", f"gpuops-nim-{name}")


def test_a_role_for_all_that_is_missing(play, space, limited, kubectl, everything, objects):
    cache = {"claim": "models", "size": "50Gi"}
    files = [{"path": "/etc/nim/extra.yaml", "content": "a: 1"}]
    options = {"cache": cache, "config_files": files, "gpus": 0, "endpoint_host": f"{space}.example.com"}
    task = preflight(space, impersonate_user=limited, **options)
    with everything() as writes:
        before = play(task, fails=True).result
    assert not writes
    said = "; ".join(row["said"] for row in found(before, "rights", "failure"))
    assert limited in said
    for right in ("create secrets", "inferenceservices.serving.kserve.io", "persistentvolumeclaims", "configmaps"):
        assert right in said
    # what can't be looked at is a warning, and only what is missing for the run a failure
    assert {row["check"] for row in before["rows"] if row["status"] == "failure"} == {"rights"}
    assert found(before, "gpus", "warning")[0]["said"].startswith("not checked: User")

    kubectl("apply", "-f", "-", stdin=before["role"])
    after = play(task).result
    assert not bad(after)
    assert after["role"] == ""

    # with these rights alone the whole run goes through
    run = {"namespace": space, "impersonate_user": limited}
    service = {"name": "llama", "image": IMAGE, "ingress_address": url("ingress"), **SMALL, **options}
    played = play(
        {"gpuops.nim.nim_secret": {**run, "ngc_api_key": KEYS["valid"]}},
        {"gpuops.nim.nim_kserve": {**run, **service, "wait_timeout": 120}},
        {"gpuops.nim.nim_chat": {**run, "name": "llama", "address": url("ingress")}},
    )
    assert played.results[1]["services"][0]["state"] == "ready"
    assert not played.results[0].get("warnings")
    # and all of them are used, but for what only a failure needs
    assert not bad(play(preflight(space, **options)).result)


def test_the_namespace_itself_is_in_the_role(play, name_namespace, limited, kubectl):
    namespace = name_namespace("preflight-role")
    role = f"gpuops-nim-{limited}"
    kubectl("create", "clusterrole", role, "--verb=get", "--resource=namespaces")
    kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", f"--user={limited}")
    task = preflight(namespace, impersonate_user=limited, create_namespace=True)
    documents = list(yaml.safe_load_all(play(task, fails=True).result["role"]))
    names = [(each["kind"], each["metadata"].get("namespace", each["metadata"]["name"])) for each in documents]
    assert names.index(("Namespace", namespace)) < names.index(("Role", namespace))


# -- GPUs


@pytest.mark.parametrize(
    ("options", "said", "remedy"),
    [
        ({"gpus": 3}, f"with too little {GPU} (2 of 3)", "No node has more than 2"),
        ({"gpus": 1, "gpu_resource": "nvidia.com/mig-1g.10gb"}, "too little nvidia.com/mig-1g.10gb", "gpu_resource"),
        ({"node_selector": {"kubernetes.io/os": "plan9"}}, "without the label kubernetes.io/os=plan9", "linux"),
        ({"node_selector": {"no-such": "label"}}, "without the label no-such=label", "no node has a label no-such"),
        ({"memory": "900Gi"}, "with too little memory", "Ask for less memory"),
        ({"min_replicas": 3}, "1 of 3 replicas find no room", "fewer replicas"),
        (
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["mars"]}]}]}}}},
            "outside the node affinity", "Correct affinity",
        ),
    ],
    ids=["more than there are", "another resource", "wrong label", "no such label", "memory", "replicas", "affinity"],
)  # fmt: skip
def test_no_place_for_it(play, space, options, said, remedy):
    (row,) = found(play(preflight(space, **options), fails=True).result, "gpus")
    assert row["status"] == "failure"
    assert said in row["said"]
    assert remedy in row["remedy"]


def test_a_node_that_is_tainted_and_one_that_is_cordoned(play, space, kubectl):
    # a pod of another test that comes meanwhile waits a moment longer
    kubectl("taint", "node", NODE, "preflight.test/only=gpu:NoSchedule")
    try:
        (row,) = found(play(preflight(space), fails=True).result, "gpus")
        fits = play(preflight(space, tolerations=["preflight.test/only=gpu:NoSchedule"])).result
    finally:
        kubectl("taint", "node", NODE, "preflight.test/only:NoSchedule-")
    assert f"{NODE}: with the taint preflight.test/only=gpu:NoSchedule" in row["said"]
    assert "tolerations: ['preflight.test/only=gpu:NoSchedule']" in row["remedy"]
    assert not bad(fits)
    kubectl("cordon", NODE)
    try:
        (row,) = found(play(preflight(space), fails=True).result, "gpus")
    finally:
        kubectl("uncordon", NODE)
    assert f"kubectl uncordon {NODE}" in row["remedy"]


def test_services_share_what_is_free(play, space):
    one = {"image": IMAGE, "gpus": 1}
    fit = play(preflight(space, {"name": "a", **one}, {"name": "b", **one})).result
    assert not bad(fit)
    result = play(preflight(space, *({"name": name, **one} for name in "abc")), fails=True).result
    assert len(found(result, "gpus", "failure")) == 1
    assert "the other services of this task take it" in found(result, "gpus", "failure")[0]["said"]


def test_a_gpu_that_others_hold_and_the_own_one(play, space, kubectl, until):
    secret = {"gpuops.nim.nim_secret": {"namespace": space, "ngc_api_key": KEYS["valid"]}}
    both = {**SMALL, "gpus": 2}
    service = {"namespace": space, "name": "llama", "image": IMAGE, "wait_timeout": 120, **both}
    play(secret, {"gpuops.nim.nim_kserve": service})
    # its own count as free
    assert not bad(play(preflight(space, gpus=2)).result)
    assert not bad(play(preflight(space, gpus=2, memory="160Mi")).result)
    (row,) = found(play(preflight(space, gpus=2, memory="160Mi", update_strategy="surge")).result, "gpus", "warning")
    assert "no room for a second pod" in row["said"]
    # those of others don't
    (row,) = found(play(preflight(space, {"name": "other", "image": IMAGE}), fails=True).result, "gpus")
    assert f"{NODE} has 0 of 2 {GPU} left" in row["said"]
    assert f"held by {space}/llama-predictor-" in row["said"]
    # what runs, runs: where a change would find no place is for a warning
    result = play(preflight(space, gpus=3)).result
    assert found(result, "gpus", "warning")
    kubectl("delete", "inferenceservice", "-n", space, "llama")
    until(lambda: not json.loads(kubectl("get", "pods", "-n", space, "-o", "json"))["items"], "its pods to go")


# -- what the namespace allows


@pytest.mark.parametrize(
    ("rule", "options", "check", "said"),
    [
        (
            {"kind": "ResourceQuota", "spec": {"hard": {"requests.memory": "100Mi", "limits.cpu": "4"}}},
            {}, "quota", "0.1 GiB more requests.memory wanted",
        ),
        (
            {"kind": "ResourceQuota", "spec": {"hard": {f"requests.{GPU}": "1"}}},
            {"min_replicas": 2}, "quota", f"2 more requests.{GPU} wanted, 1 of 1 left",
        ),
        (
            {"kind": "ResourceQuota", "spec": {"hard": {"requests.storage": "1Gi", "persistentvolumeclaims": "0"}}},
            {"cache": {"claim": "m", "size": "50Gi"}}, "quota", "1 more persistentvolumeclaims wanted, 0 of 0 left",
        ),
        (
            {"kind": "LimitRange", "spec": {"limits": [{"type": "Container", "max": {"memory": "64Mi"}}]}},
            {}, "limits", "memory 128Mi is more than 64Mi",
        ),
        (
            {"kind": "LimitRange", "spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}}]}},
            {"cache": {"claim": "m", "size": "50Gi"}}, "limits", "storage 50Gi is more than 2Gi",
        ),
    ],
    ids=["quota of memory", "quota of GPUs", "quota of claims", "range of containers", "range of claims"],
)  # fmt: skip
def test_limits_of_the_namespace(play, space, apply, until, kubectl, rule, options, check, said):
    apply({"apiVersion": "v1", "metadata": {"name": "rule", "namespace": space}, **copy.deepcopy(rule)})
    if rule["kind"] == "ResourceQuota":
        until(lambda: kubectl("get", "resourcequota", "rule", "-n", space, "-o", "jsonpath={.status.used}"), "its use")
    result = play(preflight(space, **options), fails=True).result
    (row,) = found(result, check)
    assert row["status"] == "failure"
    assert said in row["said"]
    assert space in row["remedy"]


def test_pod_security(play, space, kubectl):
    kubectl("label", "namespace", space, "pod-security.kubernetes.io/enforce=restricted")
    (row,) = found(play(preflight(space), fails=True).result, "pod")
    assert "violates PodSecurity" in row["said"]
    container = {"name": "kserve-container", "securityContext": {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}  # fmt: skip
    context = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    fits = {"security_context": context, "pod_patch": {"containers": [container]}}
    assert "restricted" in row["remedy"] or "runAsNonRoot" in row["remedy"]
    assert "pod security restricted" in found(play(preflight(space, **fits)).result, "pod")[0]["said"]


# -- what the services name


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ({"priority_class_name": "no-such"}, "PriorityClass no-such"),
        ({"runtime_class_name": "no-such"}, "RuntimeClass no-such"),
        ({"service_account_name": "no-such"}, "ServiceAccount {}/no-such"),
        ({"image_pull_secrets": ["no-such"]}, "Secret {}/no-such"),
        ({"env_from_secret": {"HF_TOKEN": "no-such"}}, "Secret {}/no-such"),
        ({"ca_bundle": {"config_map": "no-such"}}, "ConfigMap {}/no-such"),
        ({"pod_patch": {"volumes": [{"name": "x", "secret": {"secretName": "no-such"}}]}}, "Secret {}/no-such"),
        ({"own_secrets": []}, "Secret {}/ngc-secret"),
        ({"model_format": "nim", "runtime": "no-such"}, "serving runtime no-such"),
    ],
    ids=["priority", "runtime", "account", "pull secret", "variable", "CA", "volume", "own secrets", "serving runtime"],
)
def test_what_is_named_must_be_there(play, space, options, subject):
    result = play(preflight(space, **options), fails=True).result
    rows = {row["subject"]: row for row in found(result, "references", "failure")}
    assert rows[subject.format(space)]["said"].startswith("there is no such")
    assert rows[subject.format(space)]["remedy"]


def test_a_key_that_a_secret_does_not_have(play, space, kubectl):
    kubectl("create", "secret", "generic", "-n", space, "mine", "--from-literal=OTHER=hush-hush")
    played = play(preflight(space, env_from_secret={"HF_TOKEN": "mine"}), fails=True)
    (row,) = found(played.result, "references", "failure")
    assert "no key HF_TOKEN" in row["said"]
    assert "OTHER" in row["said"]
    assert "hush" not in json.dumps(played.result)


def test_a_namespace_that_is_not_there(play, name_namespace):
    namespace = name_namespace("preflight-none")
    (row,) = found(play(preflight(namespace), fails=True).result, "namespace")
    assert "create_namespace" in row["remedy"]
    result = play(preflight(namespace, create_namespace=True, image_pull_secrets=["mine"]), fails=True).result
    assert "does not exist yet" in found(result, "references", "failure")[0]["said"]


# -- storage


@pytest.mark.parametrize(
    ("cache", "replicas", "status", "said"),
    [
        ({"claim": "m"}, 1, "failure", "there is no such claim"),
        ({"claim": "m", "size": "50Gi", "storage_class": "no-such"}, 1, "failure", "no storage class no-such"),
        ({"claim": "m", "size": "50Gi"}, 2, "warning", "ReadWriteOnce is for one node, and 2 replicas are wanted"),
        ({"claim": "m", "size": "50Gi", "access_modes": ["ReadWriteOncePod"]}, 2, "failure", "for one pod"),
    ],
    ids=["missing", "class", "replicas", "one pod"],
)
def test_claims(play, space, cache, replicas, status, said):
    result = play(preflight(space, cache=cache, min_replicas=replicas), fails=status == "failure").result
    (row,) = found(result, "storage")
    assert row["status"] == status
    assert said in row["said"]
    assert row["remedy"]


def test_no_default_class(play, space, kubectl):
    mark = "storageclass.kubernetes.io/is-default-class"
    kubectl("annotate", "storageclass", "rehearsal", "--overwrite", f"{mark}=false")
    try:
        result = play(preflight(space, cache={"claim": "m", "size": "50Gi"}), fails=True).result
    finally:
        kubectl("annotate", "storageclass", "rehearsal", "--overwrite", f"{mark}=true")
    (row,) = found(result, "storage")
    assert "no default storage class; there are: rehearsal" in row["said"]


def test_a_claim_that_waits_for_its_first_pod_and_one_that_can_not_be_bound(play, space, apply):
    def claim(name, storage_class):
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}}
        meta = {"name": name, "namespace": space}
        spec["storageClassName"] = storage_class
        apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})

    claim("waits", "rehearsal")
    claim("never", "gone")
    (row,) = found(play(preflight(space, cache={"claim": "waits"})).result, "storage")
    assert (row["status"], "when the first pod wants it" in row["said"]) == ("ok", True)
    (row,) = found(play(preflight(space, cache={"claim": "never"}), fails=True).result, "storage")
    assert "there is no storage class gone" in row["said"]


# -- others' objects, and webhooks


def test_objects_of_others_are_in_the_way(play, space, apply, kubectl):
    selector = {"app": "x"}
    apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llama-predictor", "namespace": space},
           "spec": {"selector": selector, "ports": [{"port": 80}]}})  # fmt: skip
    kubectl("create", "secret", "generic", "-n", space, "ngc-secret", "--from-literal=a=b")
    result = play(preflight(space), fails=True).result
    assert "Service " in found(result, "admission", "failure")[0]["said"]
    assert "isn't ours" in found(result, "secrets", "failure")[0]["said"]
    assert not bad(play(preflight(space, adopt=True)).result)


@pytest.fixture
def refusing_policy(kubectl, space, apply):
    """Refuses InferenceServices of this namespace, as a company's policy would."""
    rule = {"apiGroups": ["serving.kserve.io"], "apiVersions": ["*"], "operations": ["CREATE"]}
    group = "admissionregistration.k8s.io/v1"
    policy = {
        "apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": space},
        "spec": {"matchConstraints": {"resourceRules": [{**rule, "resources": ["inferenceservices"]}]},
                 "validations": [{"expression": "has(object.metadata.labels) && 'team' in object.metadata.labels",
                                  "message": "every model needs the label team"}]},
    }  # fmt: skip
    binding = {
        "apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": space},
        "spec": {"policyName": space, "validationActions": ["Deny"], "matchResources": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}}}},
    }  # fmt: skip
    apply(policy)
    apply(binding)
    yield
    kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", space)


@pytest.mark.usefixtures("refusing_policy")
def test_what_a_policy_refuses(play, space, until):
    def refused():
        return found(play(preflight(space), fails=None).result, "admission", "failure")

    (row,) = until(refused, "the policy to count")
    assert "every model needs the label team" in row["said"]
    assert not bad(play(preflight(space, labels={"team": "a"})).result)


def test_kserve_itself_is_down(play, space, rehearsal):
    rehearsal("stop", "kserve")
    (row,) = found(play(preflight(space), fails=True).result, "admission")
    assert row["status"] == "failure"
    assert "KServe's controller is down" in row["said"]


def test_what_metrics_and_scaling_need(play, space):
    more = {"max_replicas": 2, "scale_metric": "num_requests_waiting", "scale_target": 10}
    result = play(preflight(space, enable_prometheus=True, **more)).result
    assert "ServiceMonitor" in found(result, "monitoring", "warning")[0]["subject"]
    assert "custom.metrics.k8s.io" in found(result, "autoscaling", "warning")[0]["subject"]
    (row,) = found(play(preflight(space, autoscaler_class="keda"), fails=None).result, "autoscaling")
    assert "KEDA is not installed" in row["said"]
