# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Deploying and removing, against an API server that shows every request it was sent."""

from __future__ import annotations

import json

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras, manifests
from ansible_collections.gpuops.nim.plugins.module_utils._ops import kserve
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import TASK_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import NotInstalled
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

NAME = "llama3-8b-instruct"
ISVC = (manifests.KIND, "default", NAME)


@pytest.fixture
def api(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with FakeApiServer() as fake:
        fake.served |= {"networking.k8s.io/v1", extras.SERVICE_MONITOR.api_version}
        fake.put(config_map("Standard"))
        yield fake


def config_map(mode):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "inferenceservice-config", "namespace": "kserve"},
        "data": {
            "deploy": json.dumps({"defaultDeploymentMode": mode}),
            "ingress": json.dumps({"ingressClassName": "contour"}),
        },
    }


@pytest.fixture
def run(api):
    def run(*, check_mode=False, diff=False, **given):
        defaults = {name: argument.get("default") for name, argument in TASK_ARGUMENTS.items()}
        params = {
            **scene.options(),
            **defaults,
            "host": api.url,
            "api_key": "token-0123456789",
            "wait_timeout": 5,
            **given,
        }
        if given.get("services"):
            params["name"] = None
        api.requests.clear()
        return kserve.run(params, check_mode=check_mode, diff=diff, progress=lambda line: None)

    return run


def up(api, name=NAME):
    """What KServe and Kubernetes do after a deploy: the Deployment, its pods, and the word that all is ready."""
    isvc = api.get(manifests.KIND, "default", name)
    live = scene.live_isvc(isvc)
    live["status"]["deploymentMode"] = "Standard"
    live["status"]["url"] = f"http://{name}-default.example.com"
    live["status"]["address"] = {"url": f"http://{name}-predictor.default.svc.cluster.local"}
    api.put(live, manager="kserve")
    uid = f"deployment-{name}"
    deployment, replicaset, pod = scene.deployment(isvc), scene.replicaset(), scene.ready_pod(isvc, name=f"{name}-pod")
    deployment["metadata"]["generation"] = 1
    replicaset["metadata"].update(name=f"{name}-rs", labels={"pod-template-hash": "hash1", manifests.ISVC_LABEL: name})
    made = api.put({"apiVersion": "apps/v1", "kind": "Deployment", **deployment})
    uid = made["metadata"]["uid"]
    replicaset["metadata"]["ownerReferences"] = [{"uid": uid}]
    api.put({"apiVersion": "apps/v1", "kind": "ReplicaSet", **replicaset})
    api.put({"apiVersion": "v1", "kind": "Pod", **pod})


def deployed(api, run, **given):
    run(wait=False, **given)
    for name in [entry["name"] for entry in given.get("services") or [{"name": NAME}]]:
        up(api, name)


def test_bad_options_send_nothing(api, run):
    with pytest.raises(OpsError, match="memory: '32GB'"):
        run(memory="32GB")
    assert api.requests == []


def test_check_real_unchanged_changed(api, run):
    would = run(check_mode=True)
    assert (would.changed, would.data["services"][0]["action"], api.writes) == (True, "created", [])
    deployed(api, run)
    again = run()
    service = again.data["services"][0]
    assert (again.changed, service["action"], service["state"], api.writes) == (False, "unchanged", "ready", [])
    shown = run(check_mode=True, diff=True, memory="64Gi")
    assert shown.changed
    assert api.writes == []
    assert "64Gi" in json.dumps(shown.diff[0]["after"])


def test_an_unchanged_service_costs_few_requests(api, run):
    deployed(api, run)
    run()
    assert not [request for request in api.requests if request.is_watch]
    assert len(api.requests) <= 15


def test_how_to_reach_it(api, run):
    deployed(api, run)
    service = run(ingress_address="127.0.0.1:18080").data["services"][0]
    assert service["host"] == f"{NAME}-default.example.com"
    assert service["address"] == "127.0.0.1:18080"
    assert service["curl"].startswith(
        f"curl -s http://127.0.0.1:18080/v1/chat/completions -H 'Host: {NAME}-default.example.com' "
        '-H \'Content-Type: application/json\' -d \'{"model": "meta/llama3-8b-instruct", '
    )
    ingress = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
    api.put(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": NAME, "namespace": "default"},
            "status": ingress,
        }
    )
    assert run().data["services"][0]["address"] == "203.0.113.7"


def test_a_new_tag_that_can_not_start_is_a_failure_though_the_old_pod_answers(api, run):
    deployed(api, run)
    new = "nvcr.io/nim/meta/llama3-8b-instruct:9.9.9"
    with pytest.raises(OpsError, match="not ready after 1 s") as caught:
        run(image=new, wait_timeout=1)
    assert caught.value.changed
    assert caught.value.data["services"][0]["state"] == "scheduling"


def test_the_mode_of_the_cluster_and_of_a_live_service(api, run):
    api.put(config_map("RawDeployment"))
    run(wait=False)
    annotations = api.get(*ISVC)["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "RawDeployment"
    api.put(config_map("Standard"))
    assert not run(wait=False).changed  # KServe refuses another word


def test_a_live_service_on_knative_is_left_alone(api, run):
    run(wait=False)
    api.edit(*ISVC, "status.deploymentMode", "Knative")
    with pytest.raises(OpsError, match="runs in the mode Knative"):
        run(wait=False)
    assert api.writes == []


def test_kserve_missing_is_one_clear_error(api, run):
    api.served.discard(manifests.API_VERSION)
    with pytest.raises(OpsError) as caught:
        run(services=[{"name": "a"}, {"name": "b"}])
    assert caught.value.message == NotInstalled().message


def test_kserve_in_another_namespace(api, run):
    with pytest.raises(OpsError, match="kserve_namespace: there is no ConfigMap"):
        run(kserve_namespace="elsewhere")
    assert run(kserve_namespace="elsewhere", deployment_mode="Standard", wait=False).changed


def test_one_that_fails_does_not_hide_the_others(api, run):
    api.put(
        {
            "apiVersion": manifests.API_VERSION,
            "kind": manifests.KIND,
            "metadata": {"name": "theirs", "namespace": "default"},
            "spec": {"predictor": {}},
        }
    )
    with pytest.raises(OpsError) as caught:
        run(services=[{"name": "theirs"}, {"name": "ours"}], wait=False)
    assert caught.value.message.startswith("1 of 2 services failed.\n[default/theirs] ")
    theirs, ours = caught.value.data["services"]
    assert "adopt: true" in theirs["error"]
    assert (ours["action"], ours["error"]) == ("created", "")
    assert api.get(manifests.KIND, "default", "ours")


def test_many_services_are_written_at_the_same_time(api, run):
    services = [{"name": "m0"}, *({"name": f"m{number}", "cache": CACHE} for number in range(1, 9))]
    api.fault(method="PATCH", path="persistentvolumeclaims", hang=0.2)
    api.fault(method="PATCH", path="inferenceservices", times=len(services), hang=0.05)
    written = run(services=services, wait=False).data["services"]
    assert [(service["name"], service["action"]) for service in written] == [(s["name"], "created") for s in services]
    assert len({request.port for request in api.writes if "inferenceservices" in request.path}) > 1
    assert len([request for request in api.writes if "persistentvolumeclaims" in request.path]) == 1


def test_refused_credentials_end_the_task_and_what_was_done_is_told(api, run):
    services = [{"name": f"m{number}"} for number in range(30)]
    api.fault(method="PATCH", path="inferenceservices/m[^0]", times=99, status=401)
    with pytest.raises(OpsError, match="refused the credentials") as caught:
        run(services=services, wait=False)
    assert caught.value.changed
    assert caught.value.data["services"][0]["action"] == "created"
    # those that were under way, each with its second try, and no more
    assert len(api.seen("PATCH", "inferenceservices")) < len(services)


def test_namespaces_are_only_made_on_demand(api, run):
    with pytest.raises(OpsError, match="create_namespace"):
        run(namespace="new", wait=False)
    assert run(namespace="new", create_namespace=True, wait=False).changed
    assert api.get(manifests.KIND, "new", NAME)
    assert run(namespace="newer", create_namespace=True, check_mode=True).warnings
    assert api.writes == []


CACHE = {"claim": "nim-model", "path": "/mnt/models", "size": "9Gi", "access_modes": ["ReadWriteOnce"]}


def test_the_claim_is_made_once_and_then_left_alone(api, run):
    services = [{"name": "a", "cache": CACHE}, {"name": "b", "cache": CACHE}]
    run(services=services, wait=False)
    assert len([r for r in api.writes if "persistentvolumeclaims" in r.path]) == 1
    larger = run(services=[{"name": "a", "cache": {**CACHE, "size": "20Gi"}}], wait=False)
    assert not larger.changed
    assert "exists with 9Gi" in larger.warnings[0]


def test_a_claim_without_size_must_exist(api, run):
    cache = {**CACHE, "size": None}
    with pytest.raises(OpsError, match=r"cache\.claim: there is no claim nim-model"):
        run(cache=cache, wait=False)
    assert api.writes == []


def test_metrics_come_and_go(api, run):
    run(enable_prometheus=True, wait=False)
    assert api.get("ServiceMonitor", "default", f"{NAME}-svcmonitor")
    assert not run(enable_prometheus=True, wait=False).changed
    assert run(wait=False).data["services"][0]["action"] == "changed"
    assert not api.get("ServiceMonitor", "default", f"{NAME}-svcmonitor")
    assert not api.get("Service", "default", f"{NAME}-metric-svc")
    assert not run(wait=False).changed


def test_no_prometheus_operator_is_a_warning(api, run):
    api.served.discard(extras.SERVICE_MONITOR.api_version)
    result = run(enable_prometheus=True, wait=False)
    assert "no ServiceMonitor" in result.warnings[0]
    assert api.get("Service", "default", f"{NAME}-metric-svc")


def test_absent(api, run):
    run(enable_prometheus=True, cache=CACHE, wait=False)
    would = run(state="absent", check_mode=True)
    assert (would.changed, api.writes) == (True, [])
    gone = run(state="absent")
    assert (gone.changed, gone.data["services"][0]["action"]) == (True, "deleted")
    for kind, name in (
        (manifests.KIND, NAME),
        ("Service", f"{NAME}-metric-svc"),
        ("ServiceMonitor", f"{NAME}-svcmonitor"),
    ):
        assert not api.get(kind, "default", name)
    assert api.get("PersistentVolumeClaim", "default", "nim-model")
    again = run(state="absent")
    assert (again.changed, again.data["services"][0]["action"], api.writes) == (False, "absent", [])


def test_absent_with_the_cache_keeps_what_others_use(api, run):
    services = [{"name": "a", "cache": CACHE}, {"name": "b", "cache": CACHE}]
    run(services=services, wait=False)
    kept = run(state="absent", keep_cache=False, services=services[:1])
    assert "b uses it" in kept.warnings[0]
    assert api.get("PersistentVolumeClaim", "default", "nim-model")
    run(state="absent", keep_cache=False, services=services[1:])
    assert not api.get("PersistentVolumeClaim", "default", "nim-model")


def test_absent_waits_for_the_last_pod(api, run):
    deployed(api, run)
    with pytest.raises(OpsError, match=f"not gone after 1 s.*pod {NAME}-pod is still ending"):
        run(state="absent", wait_timeout=1)


def test_a_claim_of_others_is_never_removed(api, run):
    api.put(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "nim-model", "namespace": "default"},
            "spec": {"resources": {"requests": {"storage": "9Gi"}}},
        }
    )
    run(cache=CACHE, wait=False)
    run(state="absent", keep_cache=False, cache=CACHE)
    assert api.get("PersistentVolumeClaim", "default", "nim-model")


ENDPOINT = {"endpoint_host": "llama.example.com", "tls_secret": "llama-tls"}
INGRESS = ("Ingress", "default", f"{NAME}-endpoint")


def tls_secret(api, kind="kubernetes.io/tls", **data):
    metadata = {"name": "llama-tls", "namespace": "default"}
    data = {"tls.crt": "eA==", "tls.key": "eA==", **{key.replace("_", "."): value for key, value in data.items()}}
    api.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data})


def test_an_endpoint_comes_and_goes(api, run):
    tls_secret(api)
    assert run(**ENDPOINT, check_mode=True).data["services"][0]["url"] == "https://llama.example.com"
    assert not api.get(*INGRESS)
    run(**ENDPOINT, wait=False)
    assert api.get(*INGRESS)["spec"]["ingressClassName"] == "contour"
    assert (run(**ENDPOINT, wait=False).changed, api.writes) == (False, [])
    plain = run(endpoint_host="llama.example.com", wait=False).data["services"][0]
    assert (plain["action"], plain["url"]) == ("changed", "http://llama.example.com")
    assert "tls" not in api.get(*INGRESS)["spec"]
    assert run(wait=False).data["services"][0]["action"] == "changed"
    assert not api.get(*INGRESS)
    assert not run(wait=False).changed


def test_an_endpoint_goes_with_its_service(api, run):
    tls_secret(api)
    run(**ENDPOINT, wait=False)
    run(state="absent")
    assert not api.get(*INGRESS)


@pytest.mark.parametrize(
    ("given", "curl"),
    [
        ({}, "curl -s https://llama.example.com/v1/chat/completions -H 'Content-"),
        (
            {"ingress_address": "203.0.113.7"},
            "curl -s https://llama.example.com/v1/chat/completions --connect-to ::203.0.113.7 ",
        ),
        (
            {"ingress_address": "https://127.0.0.1:18443"},
            "curl -s https://llama.example.com:18443/v1/chat/completions --connect-to ::127.0.0.1:18443 ",
        ),
        ({"tls_secret": None}, "curl -s http://203.0.113.9/v1/chat/completions -H 'Host: llama.example.com' "),
    ],
)
def test_how_to_reach_an_endpoint(api, run, given, curl):
    tls_secret(api)
    points = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}
    run(**{**ENDPOINT, **given}, wait=False)
    api.edit(*INGRESS, "status", points)
    service = run(**{**ENDPOINT, **given}, wait=False).data["services"][0]
    assert service["curl"].startswith(curl)
    assert service["host"] == "llama.example.com"
    assert service["address"] == given.get("ingress_address", "203.0.113.9")
    assert service["url"] in service["curl"] or not service["url"].startswith("https")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (None, "there is no Secret llama-tls in namespace default"),
        ({"kind": "Opaque"}, "Secret default/llama-tls is of type Opaque, not kubernetes.io/tls"),
        ({"tls_key": ""}, "Secret default/llama-tls has no tls.key"),
    ],
)
def test_a_certificate_that_is_not_there_stops_it_before_anything_is_written(api, run, made, words):
    if made is not None:
        tls_secret(api, **made)
    with pytest.raises(OpsError) as caught:
        run(**ENDPOINT, cache=CACHE, wait=False)
    assert words in caught.value.message
    assert "`kubectl create secret tls llama-tls --namespace default --cert=FILE --key=FILE`" in caught.value.message
    assert api.writes == []


def test_who_may_not_read_secrets_is_only_warned(api, run):
    tls_secret(api)
    said = 'secrets "llama-tls" is forbidden: User "u" cannot get resource "secrets" in API group "" in the namespace "default"'  # noqa: E501
    api.fault(method="GET", path="/secrets/", times=1, status=403, message=said)
    result = run(**ENDPOINT, wait=False)
    assert "llama-tls is not checked" in result.warnings[0]
    assert api.get(*INGRESS)


def test_two_services_can_not_have_one_host(api, run):
    services = [{"name": "a"}, {"name": "b"}]
    with pytest.raises(OpsError, match=r"services\[1\]\.endpoint_host: llama\.example\.com is already that of"):
        run(services=services, endpoint_host="llama.example.com")
    assert api.requests == []
    run(services=services, endpoint_host="llama.example.com", state="absent")


def test_the_ingress_that_kserve_leaves_is_pointed_out(api, run):
    local = {"labels": {"networking.kserve.io/visibility": "cluster-local"}}
    run(wait=False)
    assert not run(**local, wait=False).warnings
    metadata = {"name": NAME, "namespace": "default"}
    api.put({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": {}})
    assert f"`kubectl delete ingress --namespace default {NAME}`" in run(**local, wait=False).warnings[0]


def test_kinds_that_nobody_asked_for_need_no_rights(api, run):
    run(wait=False)
    for kind in ("horizontalpodautoscalers", "configmaps", "ingresses", "services", "servicemonitors", "podmonitors"):
        said = f'{kind} is forbidden: User "u" cannot list resource "{kind}" in API group "" in the namespace "default"'
        api.fault(method="GET", path=f"/namespaces/default/{kind}$", times=9, status=403, message=said)
    assert not run(wait=False).changed
    assert run(state="absent").changed


def test_a_claim_of_data_must_be_there(api, run):
    with pytest.raises(OpsError, match=r"data\[0\]: there is no claim models in namespace default. Make it first."):
        run(data=["models:/data"], cache=CACHE, wait=False)
    assert api.writes == []
