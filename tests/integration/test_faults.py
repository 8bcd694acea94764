# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on real clusters: each time the run converges, or says in one error what is wrong and what to do."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import jwt
import pytest
import requests
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import PATIENCE
from ansible_collections.gpuops.nim.tests.integration.api_proxy import RESET
from rehearsal.layout import NODE, Layout, url
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

LAYOUT = Layout.from_environment()
IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct"
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}
QUICK = {"unschedulable_grace": 1}
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


def kserve(namespace: str, *services, **options):
    """The task; services beside `SMALL` options, or one whose name is in the options."""
    listed = {"services": list(services)} if services else {}
    ingress = url("ingress").removeprefix("http://")
    options = {"namespace": namespace, "ingress_address": ingress, "image": f"{IMAGE}:1.0.0", **SMALL, **options}
    return {"gpuops.nim.nim_kserve": {**options, **listed}}


def secret(namespace: str, key: str = "valid", **options):
    return {"gpuops.nim.nim_secret": {"namespace": namespace, "ngc_api_key": KEYS[key], **options}}


def by_name(result):
    return {service["name"]: service for service in result["services"]}


def one(result):
    (service,) = result["services"]
    return service


def found(service):
    return [(finding["id"], finding["variant"]) for finding in service["findings"]]


def claim(name: str, **more):
    return {"cache": {"claim": name, "size": "1Gi", **more}}


@pytest.fixture(scope="module")
def space(play, new_namespace):
    """A namespace with both Secrets."""
    namespace = new_namespace("faults")
    play(secret(namespace))
    return namespace


@pytest.fixture
def named(objects):
    """`named("pods", namespace, "llama")`: the names of a service's objects of a kind."""

    def named(kind: str, namespace: str, service: str) -> list[str]:
        return [name for name in objects(kind, namespace) if name.startswith(f"{service}-predictor")]

    return named


# -- what a namespace does not allow


QUOTA = (
    {"name": "nopods"},
    {"name": "noservice"},
    {"name": "noclaim", **claim("models")},
    {"name": "toomany"},
)


@pytest.fixture(scope="module")
def refused(play, new_namespace, kubectl, apply, objects, until):
    """A namespace whose quota has refused something of each of the services `QUOTA`, and what was said of it."""
    namespace = new_namespace("faults-quota")
    hard = {
        "count/secrets": "1",
        "count/inferenceservices.serving.kserve.io": "2",
        "count/services": "1",
        "requests.storage": "1Mi",
        "pods": "0",
    }
    metadata = {"name": "tight", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}})

    def counts():
        return objects("quota", namespace)["tight"].get("status", {}).get("used", {}).keys() >= hard.keys()

    until(counts, "the quota to count")
    first = play(secret(namespace), fails=True).result
    kubectl("patch", "quota", "tight", "-n", namespace, "--type=merge", "-p", '{"spec":{"hard":{"count/secrets":"9"}}}')
    # those that fit come first: which of several the quota takes is nobody's promise
    fit, everyone = kserve(namespace, *QUOTA[:2], wait=False, **QUICK), kserve(namespace, *QUOTA, **QUICK)
    secrets, _, services = play(secret(namespace), fit, everyone, fails=None).results
    return namespace, first, secrets, services


def test_quotas_are_named(refused):
    namespace, first, secrets, services = refused
    told = by_name(services)
    for message in (first["msg"], *(service["error"] for service in told.values())):
        assert f"kubectl -n {namespace} describe quota tight" in message
    assert [entry["action"] for entry in secrets["secrets"]] == ["unchanged", "created"]
    assert {name: found(service) for name, service in told.items()} == {
        "nopods": [("admission-refused", "quota")],
        "noservice": [("kserve-refused", "quota")],
        "noclaim": [],
        "toomany": [],
    }


def test_once_a_quota_is_raised_a_rerun_does_not_wait_for_the_controllers_patience(
    play, refused, kubectl, objects, until
):
    """They pause for as long as they have been refused already: soon after the first time, a wait for that is short."""
    namespace = refused[0]

    def events():
        return [event for event in objects("events", namespace).values() if event["reason"] == "FailedCreate"]

    def refusals():
        return sum(event.get("count") or 1 for event in events())

    begun = min(datetime.strptime(event["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%S%z") for event in events())
    before = refusals()
    until(lambda: refusals() > before, "the next try, so that the longest pause is ahead", seconds=300)
    refused_for = (datetime.now(timezone.utc) - begun).total_seconds()
    kubectl("delete", "quota", "tight", "-n", namespace)
    healed = play(kserve(namespace, *QUOTA, **QUICK))
    assert {service["state"] for service in healed.result["services"]} == {"ready"}
    assert "what was refused before this run is tried again" in healed.stderr
    # each pause is twice the one before: the next would be at least as long as all so far
    assert max(service["waited"] for service in healed.result["services"]) < refused_for


def test_limit_ranges_are_named_and_do_not_hide_what_fits(play, new_namespace, apply, kubectl):
    namespace = new_namespace("faults-limits")
    limits = [
        {"type": "Container", "max": {"memory": "100Mi"}, "default": {"ephemeral-storage": "1Gi"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "500Mi"}},
    ]
    metadata = {"name": "tight", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": limits}})
    fits = {"name": "fits", "memory": "100Mi", "share_memory": ""}
    services = {"name": "big"}, {"name": "claims", **claim("models")}, fits
    told = by_name(play(secret(namespace), kserve(namespace, *services), fails=None).result)
    assert found(told["big"]) == [("admission-refused", "limit-range")]
    assert "maximum storage usage" in told["claims"]["error"]
    for name in ("big", "claims"):
        assert f"kubectl -n {namespace} describe limitrange" in told[name]["error"]
    assert told["fits"]["state"] == "ready"
    same, smaller = play(kserve(namespace, **fits), kserve(namespace, **{**fits, "name": "big"})).results
    assert (same["changed"], one(smaller)["state"]) == (False, "ready")


def test_pod_security_is_named_with_options_that_satisfy_it(play, new_namespace, kubectl):
    namespace = new_namespace("faults-restricted")
    kubectl("label", "namespace", namespace, RESTRICTED)
    refused = play(secret(namespace), kserve(namespace, name="llama"), fails=None).result
    assert found(one(refused)) == [("admission-refused", "pod-security")]
    assert "allowPrivilegeEscalation" in refused["msg"]
    lines = [line.strip() for line in refused["msg"].splitlines()]
    pasted = yaml.safe_load("\n".join(line for line in lines if line.startswith(("security_context:", "pod_patch:"))))
    assert set(pasted) == {"security_context", "pod_patch"}
    assert one(play(kserve(namespace, name="llama", **pasted)).result)["state"] == "ready"


def test_a_namespace_that_is_being_deleted(play, new_namespace, kubectl, apply):
    namespace = new_namespace("faults-ending")
    apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "holds", "namespace": namespace, "finalizers": ["example.com/hold"]},
        }
    )
    kubectl("delete", "namespace", namespace, "--wait=false")
    tasks = secret(namespace, create_namespace=True), kserve(namespace, name="llama", create_namespace=True)
    for refused in (*play(*tasks, fails=True).results, *play(*tasks, check=True, fails=True).results):
        for part in (namespace, "being terminated", "Wait until the namespace is gone, or use another"):
            assert part in refused["msg"]
    assert not play(kserve(namespace, name="llama", state="absent")).result["changed"]
    kubectl("patch", "cm", "holds", "-n", namespace, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


def test_claims_that_get_no_volume_are_told_from_one_that_waits_for_its_pod(play, space, apply, kubectl):
    def storage_class(name: str, mode: str):
        meta = {"name": f"{name}-{os.getpid()}"}
        apply(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": meta,
                "provisioner": "nobody.example.com",
                "volumeBindingMode": mode,
            }
        )
        return meta["name"]

    nobody, later = storage_class("nobody", "Immediate"), storage_class("later", "WaitForFirstConsumer")
    try:
        services = (
            {"name": "noclass", **claim("noclass", storage_class="no-such-class")},
            {"name": "nobody", **claim("nobody", storage_class=nobody)},
            {"name": "later", **claim("later", storage_class=later)},
            {"name": "normal", **claim("normal")},
        )
        played = play(kserve(space, *services, **QUICK), fails=True)
    finally:
        kubectl("delete", "storageclass", nobody, later)
    told = by_name(played.result)
    assert found(told["noclass"]) == found(told["nobody"]) == [("unschedulable", "claim-unbound")]
    assert found(told["later"]) == [("controller-silent", "claim")]
    for name, why in (("noclass", "no-such-class"), ("nobody", "nobody.example.com"), ("later", "nobody.example.com")):
        assert why in told[name]["error"]
        assert f"kubectl -n {space} describe pvc" in told[name]["error"]
    assert told["normal"]["state"] == "ready"
    assert "[{space}/normal] failed" not in played.stderr


# -- names that are taken


def foreign(namespace: str):
    """An object of each kind that we or KServe would make, by the service whose name it takes."""
    container = {"name": "c", "image": "example.com/none"}
    labels = {"app": "theirs"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    backend = {"service": {"name": "theirs", "port": {"number": 80}}}
    rules = [
        {"host": "theirs.example.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    ]
    service = {"selector": labels, "ports": [{"port": 1234}]}
    stopped = {"serving.kserve.io/stop": "true"}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "theirs"}
    made = {
        "isvc": ("serving.kserve.io/v1beta1", "InferenceService", "isvc", {"predictor": {"containers": [container]}}),
        "deploy": ("apps/v1", "Deployment", "deploy-predictor", {"replicas": 0, "selector": {"matchLabels": labels}}),
        "service": ("v1", "Service", "service-predictor", service),
        "scaler": ("autoscaling/v2", "HorizontalPodAutoscaler", "scaler-predictor", {"maxReplicas": 1}),
        "ingress": ("networking.k8s.io/v1", "Ingress", "ingress", {"rules": rules}),
        "endpoint": ("networking.k8s.io/v1", "Ingress", "endpoint-endpoint", {"rules": rules}),
        "metrics": ("v1", "Service", "metrics-metric-svc", service),
        "monitor": ("monitoring.coreos.com/v1", "ServiceMonitor", "monitor-svcmonitor", {"endpoints": []}),
    }
    made["deploy"][3]["template"] = template
    made["scaler"][3]["scaleTargetRef"] = target
    made["monitor"][3]["selector"] = {}
    for taken, (version, kind, name, spec) in made.items():
        metadata = {"name": name, "namespace": namespace, "annotations": stopped if taken == "isvc" else {}}
        yield taken, {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def test_what_others_made_is_neither_taken_nor_broken(play, new_namespace, apply, kubectl, monitoring_crds):
    namespace = new_namespace("faults-clash")
    theirs = dict(foreign(namespace))
    for obj in theirs.values():
        apply(obj)

    def specs():
        kinds = {obj["kind"].lower() for obj in theirs.values()}
        items = json.loads(kubectl("get", ",".join(sorted(kinds)), "-n", namespace, "-o", "json"))["items"]
        ours = {obj["metadata"]["name"] for obj in theirs.values()}
        return {
            (item["kind"], item["metadata"]["name"]): (item["spec"], item["metadata"].get("ownerReferences"))
            for item in items
            if item["metadata"]["name"] in ours
        }

    before = specs()
    assert len(before) == len(theirs)
    more = {"endpoint": {"endpoint_host": "x.example.com"}}
    more |= {name: {"enable_prometheus": True} for name in ("metrics", "monitor")}
    services = [{"name": name, **more.get(name, {})} for name in theirs]
    tasks = kserve(namespace, *services, wait=False), kserve(namespace, *services, {"name": "free"}, wait=False)
    for result in (play(tasks[0], check=True, fails=True).result, play(tasks[1], fails=True).result):
        for name, obj in theirs.items():
            error = by_name(result)[name]["error"]
            for part in (obj["kind"], f"{namespace}/{obj['metadata']['name']}", "kubectl", "adopt: true"):
                assert part in error
    assert not by_name(result)["free"]["error"]
    assert specs() == before
    kubectl("delete", "deployment,service,hpa,ingress", "--all", "-n", namespace)
    freed = play(kserve(namespace, {"name": "deploy"}, {"name": "service"}, {"name": "endpoint"}, wait=False)).result
    assert not any(service["error"] for service in freed["services"])


def test_a_name_too_long_for_kserves_host_is_refused_before_anything_is_sent(play, space, audit):
    name = "a" * (63 - len(f"-predictor-{space}") + 1)
    with audit(space) as seen:
        refused = play(kserve(space, name=name), fails=True).result
    assert refused["msg"].startswith("name: ")
    assert "63" in refused["msg"]
    assert not seen.requests
    assert play(kserve(space, name=name[:-1]), check=True).result["changed"]


# -- GPUs that are taken


def test_who_holds_the_gpus_is_named_and_whoever_ends_is_waited_for(play, space, new_namespace, free_gpus, run):
    other = new_namespace("faults-gpu")
    command = ["python3", "-c", "import time; time.sleep(5)"]
    slow_end = {"containers": [{"name": "kserve-container", "lifecycle": {"preStop": {"exec": {"command": command}}}}]}
    big = {"name": "big", "gpus": free_gpus, "pod_patch": slow_end}
    deployed, _ = play(kserve(space, **big, update_strategy="surge"), secret(other)).results

    stuck, taken = play(
        kserve(space, **big, update_strategy="surge", env={"A": "1"}, **QUICK),
        kserve(other, name="small", gpus=1, **QUICK),
        fails=True,
    ).results
    assert found(one(stuck)) == [("unschedulable", "surge")]
    assert "the old pod big-predictor" in stuck["msg"]
    assert "update_strategy: in_place" in stuck["msg"]
    assert '"choices"' in run("bash", "-c", one(deployed)["curl"]).stdout
    assert found(one(taken)) == [("unschedulable", "gpu")]
    assert f"nvidia.com/gpu is held by {space}/big-predictor" in taken["msg"]
    play(kserve(other, name="small", state="absent"))

    moved = play(kserve(space, **big, update_strategy="in_place", env={"A": "1"}, **QUICK))
    assert one(moved.result)["state"] == "ready"
    freed = play(kserve(space, name="big", state="absent", wait=False), kserve(other, name="small", gpus=1, **QUICK))
    assert one(freed.result)["state"] == "ready"
    for played in (moved, freed):
        assert "is ending and still holds what the new pod needs" in played.stderr


# -- tokens that expire


@pytest.fixture(scope="module")
def account(space, kubectl):
    """A ServiceAccount that may do everything, and its tokens, signed by the API server's key: `account(seconds)`."""
    kubectl("create", "serviceaccount", "deployer", "-n", space)
    kubectl(
        "create",
        "clusterrolebinding",
        f"deployer-{space}",
        "--clusterrole=cluster-admin",
        f"--serviceaccount={space}:deployer",
    )
    uid = json.loads(kubectl("get", "serviceaccount", "deployer", "-n", space, "-o", "json"))["metadata"]["uid"]
    key = (LAYOUT.state / "pki" / "service-accounts.key").read_text()

    def token(seconds: float) -> str:
        now = int(time.time())
        claims = {
            "iss": "https://kubernetes.default.svc",
            "aud": ["https://kubernetes.default.svc"],
            "sub": f"system:serviceaccount:{space}:deployer",
            "iat": now - 600,
            "nbf": now - 600,
            "exp": now - 60 + int(seconds),  # the API server is lenient for a minute
            "kubernetes.io": {"namespace": space, "serviceaccount": {"name": "deployer", "uid": uid}},
        }
        return jwt.encode(claims, key, "ES256")

    yield token
    kubectl("delete", "clusterrolebinding", f"deployer-{space}")


@pytest.fixture(scope="module")
def expiring(play, space, account, tmp_path_factory):
    """Two runs that wait beside the other tests with a token that expires: nobody renews the first, a file the other.

    Their futures.
    """
    folder, admin = tmp_path_factory.mktemp("tokens"), yaml.safe_load(LAYOUT.kubeconfig.read_text())
    token = folder / "token"

    def kubeconfig(name, **user):
        path = folder / name
        path.write_text(yaml.safe_dump({**admin, "users": [{"name": "admin", "user": user}]}))
        return {"K8S_AUTH_KUBECONFIG": str(path)}

    def renew():
        scratch = folder / "token.new"
        scratch.write_text(account(6))
        scratch.replace(token)

    def renewed():
        renew()
        with ThreadPoolExecutor() as pool:
            env = kubeconfig("renewed", tokenFile=str(token))
            playing = pool.submit(play, kserve(space, name="renewed", **SLOW), env=env)
            while not playing.done():
                renew()
                time.sleep(2)
            return playing.result()

    stale = kubeconfig("stale", token=account(15))
    with ThreadPoolExecutor() as pool:
        yield pool.submit(play, kserve(space, name="stale", **SLOW), fails=True, env=stale), pool.submit(renewed)


SLOW = {"env": {"NIM_STANDIN_LOAD_SECONDS": "26"}}  # a watch lives for 20


# -- a run that is killed


def _writes(method, path):
    return method not in ("GET", "HEAD") and "dryRun=All" not in path


def test_killed_at_every_step_it_goes_on_where_it_was(play, killed, name_namespace, objects, kubectl, expiring):
    def tasks(namespace):
        service = {"name": "llama", **claim("models"), "enable_prometheus": True, "endpoint_host": f"{namespace}.test"}
        ask = {"name": "llama", "namespace": namespace, "via": "apiserver"}
        return (
            secret(namespace, create_namespace=True),
            kserve(namespace, **service, create_namespace=True),
            {"gpuops.nim.nim_chat": ask},
        )

    broken, whole = name_namespace("faults-killed"), name_namespace("faults-whole")
    done = []
    while len(done) < 40:
        struck = killed(tasks(broken), ("before", "after")[len(done) % 2], _writes)
        if struck is None or "/proxy/" in struck:
            break
        done.append(struck.rpartition("/")[2])
    steps = ["ngc-secret", "nvidia-nim-secrets", "models", "llama-endpoint", "llama-metric-svc", "llama"]
    assert set(done) >= {broken, *steps}, done
    assert done[::2] == done[1::2]  # what was killed before it was done is done by the next run, once
    # in mid-wait: the pod is replaced, which takes a while, and the run that waits for it dies
    kubectl("cordon", NODE)
    kubectl("delete", "pod", "-n", broken, "-l", "serving.kserve.io/inferenceservice=llama", "--wait=false")
    try:
        assert killed(tasks(broken), "after", lambda method, path: "watch=true" in path and "/pods" in path)
    finally:
        kubectl("uncordon", NODE)
    assert killed(tasks(broken), "after", lambda method, path: "/proxy/v1/chat" in path)

    *_, deployed, asked = play(*tasks(broken)).results
    assert one(deployed)["state"] == "ready"
    assert asked["answer"]
    assert not any(result["changed"] for result in play(*tasks(broken)).results)
    play(*tasks(whole))

    def made(namespace, kind):
        plain = json.dumps({name: _plain(obj) for name, obj in objects(kind, namespace).items()})
        return json.loads(plain.replace(namespace, "NAMESPACE"))

    for kind in ("inferenceservice", "secret", "pvc", "ingress", "service"):
        assert made(broken, kind) == made(whole, kind)


def _plain(obj):
    """Without what each object has of its own: the salt and the key's fingerprints, addresses and volumes."""
    spec = {
        key: value for key, value in obj.get("spec", {}).items() if key not in ("clusterIP", "clusterIPs", "volumeName")
    }
    labels = obj["metadata"].get("labels")
    return {"spec": spec, "labels": labels, "data": sorted(obj.get("data") or {}), "type": obj.get("type")}


# -- the way to the API server


def test_resets_refusals_and_a_busy_server_are_got_over(play, space, proxy, until, named):
    """Every request of the deployment meets trouble first, and the wait loses its connections again and again."""
    met: set[str] = set()
    trouble = [RESET, (503, {"Retry-After": "1"}), (429, {"Retry-After": "1"}), (500, {}), (408, {})]

    def first_meets_trouble(method, path):
        key = f"{method} {path}"
        if "watch=true" in path or key in met:
            return None
        met.add(key)
        return trouble[len(met) % len(trouble)]

    proxy.before = first_meets_trouble
    task = kserve(space, name="rough", env={"NIM_STANDIN_LOAD_SECONDS": "5"})
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(play, task, env=proxy.environment)
        until(lambda: named("pods", space, "rough"), "the pod")
        while not playing.done():
            proxy.reset_all()
            time.sleep(1)
        played = playing.result()
    assert len(met) >= len(trouble)
    assert one(played.result)["state"] == "ready"
    again = play(task, env=proxy.environment).result
    assert not again["changed"]


def test_a_token_that_expires_in_mid_wait(play, space, expiring):
    stale, renewed = (future.result().result for future in expiring)
    for part in ("401", "stale", "Log in again"):
        assert part in stale["msg"]
    assert stale["changed"]
    assert one(stale)["action"] == "created"
    assert one(renewed)["state"] == "ready"
    assert one(play(kserve(space, name="stale", **SLOW)).result)["state"] == "ready"


# -- parts of the cluster that fail; each is started again before the next


def test_a_wait_outlives_the_api_server_and_its_store(play, space, rehearsal, named, until):
    slow = {"env": {"NIM_STANDIN_LOAD_SECONDS": "14"}}
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(play, kserve(space, name="patient", **slow))
        until(lambda: named("pods", space, "patient"), "the pod")
        rehearsal("freeze", "apiserver")
        time.sleep(3)
        rehearsal("thaw", "apiserver")
        rehearsal("stop", "etcd")
        rehearsal("stop", "apiserver")
        rehearsal("start", "etcd")
        until(lambda: _compact(), "etcd to forget its history")  # watches can't go on where they were: 410
        assert not playing.done()
        rehearsal("start", "apiserver")
        played = playing.result()
    assert one(played.result)["state"] == "ready"
    assert "API server" in played.stderr
    assert "the wait goes on" in played.stderr


def _compact() -> bool:
    try:
        store = requests.post(f"{url('etcd')}/v3/kv/range", json={"key": "AA=="}, timeout=2).json()
        revision = {"revision": store["header"]["revision"], "physical": True}
        return requests.post(f"{url('etcd')}/v3/kv/compaction", json=revision, timeout=5).ok
    except requests.RequestException:
        return False


def test_without_kserves_webhook_nothing_is_written_and_a_rerun_converges(play, space, rehearsal, named, objects):
    new = [{"name": f"new-{number}"} for number in range(3)]
    before, task = kserve(space, name="old"), kserve(space, {"name": "old", "cpu": "51m"}, *new)
    play(before)
    there = objects("inferenceservice", space)["old"]["spec"]
    rehearsal("stop", "kserve")
    begun = time.monotonic()
    refused = play(task, fails=True).result
    assert time.monotonic() - begun < 3 * PATIENCE  # it is not spent for each service anew
    for name in ("old", "new-0", "new-1", "new-2"):
        error = by_name(refused)[name]["error"]
        for part in ("KServe's controller is down", "kubectl get pods --namespace kserve", "nothing was written"):
            assert part in error
    assert objects("inferenceservice", space)["old"]["spec"] == there
    assert not {"new-0", "new-1", "new-2"} & objects("inferenceservice", space).keys()
    rehearsal("up")
    assert {service["state"] for service in play(task).result["services"]} == {"ready"}


def test_kserves_controller_goes_in_mid_wait(play, space, rehearsal, named, until):
    task = kserve(space, name="orphan", env={"NIM_STANDIN_LOAD_SECONDS": "4"}, **QUICK)
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(play, task, fails=True)
        until(lambda: named("pods", space, "orphan"), "the pod")
        rehearsal("stop", "kserve")
        failed = playing.result().result
    assert found(one(failed)) == [("controller-silent", "kserve")]
    assert "control-plane=kserve-controller-manager" in failed["msg"]
    absent = play(kserve(space, name="orphan", state="absent", wait_timeout=5), fails=True).result
    for part in ("inferenceservice.finalizers", "control-plane=kserve-controller-manager"):
        assert part in absent["msg"]
    rehearsal("up")
    gone, deployed = play(kserve(space, name="orphan", state="absent"), task).results
    assert one(gone)["action"] == "absent"
    assert one(deployed)["state"] == "ready"


@pytest.mark.parametrize("part", ["controller-manager", "scheduler"])
def test_a_controller_of_kubernetes_that_does_not_act(play, space, rehearsal, part):
    task = kserve(space, name=f"no-{part}", **QUICK)
    rehearsal("stop", part)
    failed = play(task, fails=True).result
    assert found(one(failed)) == [("controller-silent", part)]
    assert f"kube-{part}" in failed["msg"]
    rehearsal("start", part)
    assert one(play(task).result)["state"] == "ready"


def test_a_node_is_lost_and_comes_back(play, space, rehearsal, kubectl, named):
    served, rest = {"name": "served", "gpus": 1}, ({"name": "loads"}, {"name": "late"})
    play(kserve(space, served, {"name": "leaves"}))
    rehearsal("stop", "kubelet")
    play(kserve(space, name="loads", wait=False))
    kubectl("wait", "node/rehearsal", "--for=condition=Ready=Unknown", "--timeout=60s")
    lost, ending = play(
        kserve(space, served, *rest, wait_timeout=12, **QUICK),
        kserve(space, name="leaves", state="absent", wait_timeout=2),
        fails=True,
    ).results
    told = by_name(lost)
    assert found(told["served"]) == found(told["loads"]) == [("node-lost", "lost")]
    assert found(told["late"]) == [("unschedulable", "node-lost")]
    assert told["late"]["waited"] < 12  # no pod can run there; those that are there already may go on
    for message in (*(service["error"] for service in told.values()), ending["msg"]):
        assert "systemctl status kubelet" in message
    assert "node rehearsal does not answer" in ending["msg"]
    rehearsal("start", "kubelet")
    back, _ = play(kserve(space, served, *rest), kserve(space, name="leaves", state="absent")).results
    assert {service["state"] for service in back["services"]} == {"ready"}
    assert not named("pods", space, "leaves")
