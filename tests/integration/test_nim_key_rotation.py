# SPDX-License-Identifier: GPL-3.0-or-later
"""Another key for services that are in use: what their users notice of it, and what is left on the cluster."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from rehearsal.layout import Layout, url
from rehearsal.standins.ngc import KEYS

pytestmark = [pytest.mark.rehearsal, pytest.mark.apart]

LAYOUT = Layout.from_environment()
IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
INGRESS = url("ingress").removeprefix("http://")
NGC = dict.fromkeys(("nvcr.io", "api.ngc.nvidia.com", "authn.nvidia.com"), url("ngc", "https"))
ASK = {"registry_endpoints": NGC, "registry_ca_cert": str(LAYOUT.ca), "ingress_address": INGRESS, "wait_timeout": 120}
GPU = "rotation.test/gpu"  # resources of the tests' own, so that how many are free is theirs to say
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}
PART_OF = "serving.kserve.io/inferenceservice"


def secret(*namespaces, key="valid", **options):
    return {"gpuops.nim.nim_secret": {"namespaces": list(namespaces), "ngc_api_key": KEYS[key], **options}}


def kserve(namespace, **options):
    options = {"namespace": namespace, "image": IMAGE, **SMALL, "devices": {GPU: 1}, **options}
    return {"gpuops.nim.nim_kserve": options}


def rotate(*namespaces, key="second", **options):
    given = {"namespaces": list(namespaces)} if namespaces else {}
    return {"gpuops.nim.nim_key_rotation": {**given, "ngc_api_key": KEYS[key], **ASK, **options}}


def by_name(result):
    return {service["name"]: service for service in result["services"]}


def values(obj):
    return {name: base64.b64decode(value).decode() for name, value in obj["data"].items()}


def ours(pods, name):
    """The pods of a service."""
    return {each: pod for each, pod in pods.items() if pod["metadata"]["labels"].get(PART_OF) == name}


class Users(threading.Thread):
    """Ask a service without a pause, as its users do; `failed` holds when and how that failed."""

    def __init__(self, name, namespace):
        super().__init__(daemon=True)
        self.host = f"{name}-{namespace}.example.com"
        self.asked, self.failed = 0, []
        self._ended = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()
        assert self.asked > 20

    def run(self):
        body = {"model": "meta/llama3-8b-instruct", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        while not self._ended.wait(0.05):
            self.asked += 1
            try:
                reply = requests.post(
                    f"http://{INGRESS}/v1/chat/completions", json=body, headers={"Host": self.host}, timeout=10
                )
                reply.raise_for_status()
            except requests.RequestException as error:
                self.failed.append((time.monotonic(), str(error)))


@pytest.fixture(scope="module")
def gpus(kubectl, until):
    """`gpus("rotation.test/gpu", 3)`: so many of a kind that only this test asks for are on the node."""
    made = set()

    def patch(operation, kind, **value):
        change = [{"op": operation, "path": f"/status/capacity/{kind.replace('/', '~1')}", **value}]
        kubectl("patch", "node", "rehearsal", "--subresource=status", "--type=json", "-p", json.dumps(change))

    def gpus(kind, number):
        made.add(kind)
        patch("add", kind, value=str(number))
        until(lambda: there(kind) == str(number), "the kubelet to offer them")
        return {kind: 1}

    def there(kind):
        node = json.loads(kubectl("get", "node", "rehearsal", "-o", "json"))
        return node["status"]["allocatable"].get(kind)

    yield gpus
    for kind in made:
        patch("remove", kind)


@pytest.fixture(scope="module")
def room(gpus):
    """More than all the tests together need."""
    gpus(GPU, 40)


# -- with a spare GPU, and without


@pytest.mark.usefixtures("room")
def test_with_a_spare_gpu_nobody_notices(play, new_namespace, audit, objects):
    one, two = new_namespace("rotate-one"), new_namespace("rotate-two")
    play(secret(one, two), kserve(one, name="a", cache={"claim": "models", "size": "1Gi"}), kserve(two, name="b"))
    before = {**ours(objects("pods", one), "a"), **ours(objects("pods", two), "b")}

    with audit("rotate-") as seen:
        planned = play(rotate(one, two), check=True, diff=True).result
    assert not seen.writes
    assert planned["changed"]
    assert [(each["name"], each["how"], each["action"]) for each in planned["services"]] == [
        ("a", "surge", "renewed"),
        ("b", "surge", "renewed"),
    ]
    assert {pod for each in planned["services"] for pod in each["pods"]} == before.keys()
    assert not planned["done"]

    with Users("a", one) as ones, Users("b", two) as twos:
        done = play(rotate(one, two), diff=True)
    assert (ones.failed, twos.failed) == ([], [])
    result = done.result
    assert [each["action"] for each in result["secrets"]] == ["changed"] * 4
    assert [(each["outage_seconds"], each["model"]) for each in result["services"]] == [
        (0.0, "meta/llama3-8b-instruct")
    ] * 2
    assert result["done"]
    assert len({each["fingerprint"] for each in result["namespaces"]}) == 1
    assert result["diff"] == planned["diff"]
    assert done.stderr.index(f"[{one}/a] ") < done.stderr.index(f"[{two}/b] ")

    after = {**ours(objects("pods", one), "a"), **ours(objects("pods", two), "b")}
    assert len(after) == 2
    assert not after.keys() & before.keys()
    for namespace, name in ((one, "a"), (two, "b")):
        # nothing is left of how it was done
        assert len(objects("replicasets", namespace)) == 1
        assert objects("inferenceservice", namespace)[name]["metadata"]["generation"] == 1
        (pod,) = ours(objects("pods", namespace), name).values()
        assert not any(key.startswith("gpuops.nim/") for key in pod["metadata"].get("annotations") or {})
        assert values(objects("secrets", namespace)["nvidia-nim-secrets"]) == {"NGC_API_KEY": KEYS["second"]}

    with audit("rotate-") as seen:
        again = play(rotate(one, two)).result
    assert seen.requests
    assert (again["changed"], again["done"], again["services"], seen.writes) == (False, True, [], [])


def test_without_one_the_outage_is_short_and_stated(play, new_namespace, gpus):
    namespace = new_namespace("rotate-full")
    play(secret(namespace), kserve(namespace, name="only", devices=gpus("rotation.test/only", 1)))
    with Users("only", namespace) as users:
        result = play(rotate(namespace)).result
    (service,) = result["services"]
    assert service["how"] == "in_place"
    assert "no node has room" in service["why"]
    lasted = users.failed[-1][0] - users.failed[0][0]
    assert service["outage_seconds"] == pytest.approx(lasted, rel=0.5, abs=2)
    assert result["done"]


def test_two_replicas_take_turns_without_a_spare_gpu(play, new_namespace, gpus):
    namespace = new_namespace("rotate-turns")
    play(
        secret(namespace),
        kserve(
            namespace, name="pair", devices=gpus("rotation.test/pair", 2), min_replicas=2, update_strategy="in_place"
        ),
    )
    result = play(rotate(namespace)).result
    (service,) = result["services"]
    assert (service["how"], service["outage_seconds"], len(service["pods"])) == ("in_place", 0.0, 2)
    assert result["done"]


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("hard", "why"),
    [("pods=1", "ResourceQuota one has no room"), ("requests.ephemeral-storage=1Gi", "found no node")],
    ids=["seen", "on the way"],  # a request that a LimitRange makes is in no specification
)
def test_a_quota_without_room_for_a_second_pod(play, new_namespace, kubectl, apply, until, hard, why):
    namespace = new_namespace("rotate-quota")
    limits = [{"type": "Container", "defaultRequest": {"ephemeral-storage": "1Gi"}}]
    metadata = {"name": "defaults", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": limits}})
    play(secret(namespace), kserve(namespace, name="llama"))
    kubectl("create", "quota", "one", f"--hard={hard}", "-n", namespace)
    used = ("get", "quota", "one", "-n", namespace, "-o", "jsonpath={.status.used}")
    until(lambda: kubectl(*used), "its use")
    with Users("llama", namespace) as users:
        result = play(rotate(namespace)).result
    (service,) = result["services"]
    assert service["how"] == "in_place"
    assert why in service["why"]
    assert service["outage_seconds"] > 0
    assert users.failed
    assert result["done"]


# -- keys that won't do


def test_a_key_that_is_refused_changes_nothing(play, used, audit):
    with audit(used) as seen:
        results = play(*(rotate(used, key=key) for key in ("expired", "unentitled", "blocked")), fails=True).results
    assert seen.requests
    assert not seen.writes
    for result, verdict in zip(results, ("invalid", "not_entitled", "blocked"), strict=True):
        assert [each["verdict"] for each in result["verdicts"]] == [verdict]
        assert f"{IMAGE}: {verdict}" in result["msg"]
        assert "nothing was changed" in result["msg"]


@pytest.fixture(scope="module")
def used(play, new_namespace, room):
    """A namespace with a service that answers."""
    namespace = new_namespace("rotate-used")
    play(secret(namespace))
    time.sleep(1.1)  # a pod made in the second of its Secret is renewed, to be sure
    play(kserve(namespace, name="llama"))
    return namespace


class _Broken(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def outages():
    """What an NGC that is down looks like: nobody there, one that never answers, one that answers 500."""
    silent, server = socket.create_server(("127.0.0.1", 0)), HTTPServer(("127.0.0.1", 0), _Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    places = ["127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}", f"127.0.0.1:{server.server_port}"]
    yield [{"registry_endpoints": dict.fromkeys(NGC, f"http://{place}"), "registry_timeout": 2} for place in places]
    server.shutdown()
    server.server_close()
    silent.close()


def test_an_outage_of_ngc_is_no_bad_key_and_changes_nothing(play, used, outages, audit):
    with audit(used) as seen:
        results = play(*(rotate(used, **outage) for outage in outages), fails=True).results
    assert seen.requests
    assert not seen.writes
    for result in results:
        assert {each["verdict"] for each in result["verdicts"]} <= {"network", "unavailable"}
        assert "could not be established" in result["msg"]
        assert "unverified: true" in result["msg"]


@pytest.mark.usefixtures("room")
def test_who_insists_goes_on_in_an_outage(play, new_namespace, outages):
    namespace = new_namespace("rotate-blind")
    play(secret(namespace), kserve(namespace, name="llama"))
    done, again = play(*[rotate(namespace, **outages[0], unverified=True)] * 2).results
    assert done["done"]
    assert any("not verified" in warning for warning in done["warnings"])
    assert not again["changed"]
    # nothing to do needs nobody's word
    assert not play(rotate(namespace, **outages[0])).result["changed"]


def test_what_cannot_be_right_is_said_before_anything_is_asked(play, used, audit):
    with audit(used) as seen:
        placeholder, misnamed = play(
            {"gpuops.nim.nim_key_rotation": {"namespace": used, "ngc_api_key": "changeme"}},
            rotate("Not A Name", pull_secret="x", runtime_secret="x"),
            fails=True,
        ).results
    assert not seen.requests
    assert "ngc_api_key" in placeholder["msg"]
    assert "'Not A Name'" in misnamed["msg"]
    assert "different names" in misnamed["msg"]
    nowhere = play(rotate(used, "rotate-nowhere"), fails=True).result
    assert nowhere["msg"].startswith("namespaces: nothing in rotate-nowhere uses the key")


@pytest.mark.matrix
def test_every_way_of_running_gives_the_same(in_all_ways, used):
    volatile = ("verdicts", "warnings")  # the evidence has times
    assert not in_all_ways(rotate(used, key="valid"), volatile=volatile)["changed"]
    planned = in_all_ways(rotate(used), check=True, diff=True, volatile=volatile)
    assert planned["diff"][0]["before"] != planned["diff"][0]["after"]


# -- what others made


def repair(kubectl, namespace, key):
    """Both Secrets made anew with this key, as people do it."""
    kubectl("delete", "secret", "-n", namespace, "ngc-secret", "nvidia-nim-secrets")
    login = ("--docker-server=nvcr.io", "--docker-username=$oauthtoken", f"--docker-password={key}")
    kubectl("create", "secret", "docker-registry", "ngc-secret", "-n", namespace, *login)
    kubectl("create", "secret", "generic", "nvidia-nim-secrets", "-n", namespace, f"--from-literal=NGC_API_KEY={key}")


def test_secrets_of_others_keep_all_but_the_key(play, new_namespace, apply, objects, audit):
    namespace = new_namespace("rotate-foreign")
    auths = {
        "https://nvcr.io": {"auth": base64.b64encode(f"$oauthtoken:{KEYS['valid']}".encode()).decode()},
        "mirror.example.com": {"username": "puller", "password": "secret-of-the-mirror"},
    }
    config = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    for name, kind, data in (
        ("ngc-secret", "kubernetes.io/dockerconfigjson", {".dockerconfigjson": config}),
        (
            "nvidia-nim-secrets",
            "Opaque",
            {
                key: base64.b64encode(value.encode()).decode()
                for key, value in {"NGC_API_KEY": KEYS["valid"], "NGC_CLI_API_KEY": KEYS["valid"], "HF": "hf"}.items()
            },
        ),
    ):
        metadata = {"name": name, "namespace": namespace}
        apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data})
    with audit(namespace) as seen:
        refused = play(rotate(namespace), fails=True).result
    assert not seen.writes
    assert refused["msg"].count("adopt: true") == 2

    played = play(*[rotate(namespace, adopt=True)] * 2, diff=True)
    done, again = played.results
    assert (done["done"], again["changed"]) == (True, False)
    for form in ("secret-of-the-mirror", base64.b64encode(b"puller:secret-of-the-mirror").decode()):
        assert form not in json.dumps(played.results) + played.stderr
    secrets = objects("secrets", namespace)
    assert values(secrets["nvidia-nim-secrets"]) == {
        "NGC_API_KEY": KEYS["second"],
        "NGC_CLI_API_KEY": KEYS["second"],
        "HF": "hf",
    }
    logins = json.loads(values(secrets["ngc-secret"])[".dockerconfigjson"])["auths"]
    assert {host: (each["username"], each["password"]) for host, each in logins.items()} == {
        "https://nvcr.io": ("$oauthtoken", KEYS["second"]),
        "mirror.example.com": ("puller", "secret-of-the-mirror"),
    }


@pytest.mark.usefixtures("room")
def test_secrets_repaired_by_hand_need_no_adoption_but_pods_get_a_fresh_try(play, new_namespace, kubectl):
    namespace = new_namespace("rotate-byhand")
    play(secret(namespace, key="expired"))
    stuck = play(kserve(namespace, name="llama", image_pull_policy="Always"), fails=True).result
    assert stuck["services"][0]["findings"][0]["variant"] == "key"
    time.sleep(1.1)  # Kubernetes' times have whole seconds
    repair(kubectl, namespace, KEYS["second"])
    done, again = play(*[rotate(namespace)] * 2).results
    assert all(each["action"] == "unchanged" for each in done["secrets"])
    (service,) = done["services"]
    assert (service["how"], service["action"], service["model"]) == ("fresh", "renewed", "meta/llama3-8b-instruct")
    assert service["seconds"] < 200  # the kubelet's pause alone may be five minutes
    assert done["done"]
    assert not again["changed"]


@pytest.mark.usefixtures("room")
def test_nim_kserve_renews_a_stuck_pod_too_when_others_repaired_the_secret(play, new_namespace, kubectl):
    namespace = new_namespace("rotate-stuck")
    service = kserve(namespace, name="llama", image_pull_policy="Always")
    play(secret(namespace, key="expired"))
    play(service, fails=True)
    repair(kubectl, namespace, KEYS["valid"])
    mended, again = play(service, service).results
    assert mended["services"][0]["action"] == "restarted"
    assert mended["services"][0]["state"] == "ready"
    assert mended["services"][0]["waited"] < 200
    assert not again["changed"]


@pytest.mark.usefixtures("room")
def test_a_missing_secret_is_made_where_a_service_waits_for_it(play, new_namespace):
    namespace = new_namespace("rotate-missing")
    play(kserve(namespace, name="llama", image_pull_policy="Always"), fails=True)
    result = play(rotate(namespace)).result
    assert [each["action"] for each in result["secrets"]] == ["created", "created"]
    assert result["services"][0]["how"] == "fresh"
    assert result["done"]


@pytest.mark.usefixtures("room")
def test_pods_that_belong_to_no_service_are_named(play, new_namespace, apply, kubectl):
    namespace = new_namespace("rotate-pod")
    play(secret(namespace))
    time.sleep(1.1)
    reference = {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}}
    container = {"name": "nim", "image": IMAGE, "env": [{"name": "NGC_API_KEY", "valueFrom": reference}]}
    spec = {
        "containers": [container],
        "imagePullSecrets": [{"name": "ngc-secret"}],
        "terminationGracePeriodSeconds": 0,
    }
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mine", "namespace": namespace}, "spec": spec})
    kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/mine")
    time.sleep(1.1)
    result = play(rotate(namespace)).result
    assert not result["done"]
    assert result["namespaces"][0]["pods_with_old_key"] == ["mine"]
    assert any("mine" in warning for warning in result["warnings"])


# -- what goes wrong on the way


@pytest.mark.usefixtures("room")
def test_a_service_that_does_not_come_back_serves_on_and_stops_the_rest(play, new_namespace, kubectl, objects):
    namespace = new_namespace("rotate-broken")
    kubectl("create", "configmap", "needed", "-n", namespace, "--from-literal=A=b")
    needs = {"containers": [{"name": "kserve-container", "envFrom": [{"configMapRef": {"name": "needed"}}]}]}
    play(secret(namespace), kserve(namespace, name="a", pod_patch=needs), kserve(namespace, name="b"))

    def living():
        return {name for name, pod in objects("pods", namespace).items() if "deletionTimestamp" not in pod["metadata"]}

    before = living()
    kubectl("delete", "configmap", "needed", "-n", namespace)
    with Users("a", namespace) as users:
        failed = play(rotate(namespace), fails=True).result
        time.sleep(3)
    assert users.failed == []
    services = by_name(failed)
    assert (services["a"]["action"], services["b"]["action"]) == ("failed", "not_reached")
    assert services["a"]["findings"]
    assert "needed" in failed["msg"]
    assert f"{namespace}/b" in failed["msg"]
    assert not failed["done"]
    assert living() == before

    kubectl("create", "configmap", "needed", "-n", namespace, "--from-literal=A=b")
    done, again = play(*[rotate(namespace)] * 2).results
    assert done["done"]
    assert not again["changed"]


def _writes(method, path):
    return method not in ("GET", "HEAD") and "dryRun=All" not in path


@pytest.mark.usefixtures("room")
def test_killed_at_every_step_the_next_run_goes_on(play, killed, new_namespace, objects):
    namespace = new_namespace("rotate-killed")
    play(secret(namespace), kserve(namespace, name="llama"))
    done = []
    with Users("llama", namespace) as users:
        while len(done) < 20:
            struck = killed([rotate(namespace)], ("before", "after")[len(done) % 2], _writes)
            if struck is None:
                break
            done.append(struck)
        last = play(rotate(namespace)).result
    assert users.failed == []
    kinds = [each.partition("/namespaces/")[2].split("/", 2)[1:] for each in done[::2]]
    assert [kind[0] for kind in kinds] == ["secrets", "secrets", "pods", "pods", "pods"]
    assert [each.split()[0] for each in done[::2]] == ["PATCH", "PATCH", "PATCH", "PATCH", "DELETE"]
    assert (last["done"], last["changed"]) == (True, False)
    assert len(ours(objects("pods", namespace), "llama")) == 1


@pytest.mark.usefixtures("room")
def test_a_pod_that_was_set_aside_is_named_and_goes_with_its_service(play, killed, new_namespace, objects, until):
    namespace = new_namespace("rotate-removed")
    play(secret(namespace), kserve(namespace, name="llama"))
    assert killed([rotate(namespace)], "after", lambda method, path: method == "PATCH" and "/pods/" in path)

    def ready():
        pods = ours(objects("pods", namespace), "llama").values()
        return [each["status"] for pod in pods for each in pod["status"]["conditions"] if each["type"] == "Ready"]

    until(lambda: ready() == ["True", "True"], "both pods are ready")
    upgrade = {"name": "llama", "namespace": namespace, "tag": "1.0.3", "wait_timeout": 120}
    refused, waited = play(
        {"gpuops.nim.nim_upgrade": upgrade}, kserve(namespace, name="llama", unschedulable_grace=3), fails=True
    ).results
    assert "a key rotation has set its pod" in refused["msg"]
    assert [each["variant"] for each in by_name(waited)["llama"]["findings"]] == ["set-aside"]
    play({"gpuops.nim.nim_kserve": {"name": "llama", "namespace": namespace, "state": "absent", "wait_timeout": 120}})
    assert not objects("pods", namespace)


def test_killed_in_mid_wait_of_a_renewal_in_place(play, killed, new_namespace, gpus):
    namespace = new_namespace("rotate-halfway")
    play(secret(namespace), kserve(namespace, name="llama", devices=gpus("rotation.test/halfway", 1)))
    deleted = []

    def waits(method, path):
        deleted.extend([path] if method == "DELETE" else [])
        return bool(deleted) and "watch=true" in path

    assert killed([rotate(namespace)], "after", waits)
    result = play(rotate(namespace)).result
    assert result["done"]
    assert [each["model"] for each in result["services"]] in ([], ["meta/llama3-8b-instruct"])
    assert not play(rotate(namespace)).result["changed"]
