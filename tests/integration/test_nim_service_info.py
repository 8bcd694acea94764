# SPDX-License-Identifier: GPL-3.0-or-later
"""nim_service_info on a real cluster: whose services it finds, what it says of each, and what a look costs."""

from __future__ import annotations

import pytest

from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0}
COSTS = 11  # requests for a namespace whose services are well, beside one for the time
# seconds go on while a service runs
VOLATILE = ("looked_at", "seconds", "services")


def info(namespace="", *services, **options):
    return {"gpuops.nim.nim_service_info": {"namespaces": [namespace], "services": list(services), **options}}


def kserve(namespace, **options):
    return {"gpuops.nim.nim_kserve": {"namespace": namespace, "image": IMAGE, **SMALL, **options}}


def secret(namespace, key="valid"):
    return {"gpuops.nim.nim_secret": {"namespace": namespace, "ngc_api_key": KEYS[key]}}


def by_name(result):
    return {service["name"]: service for service in result["services"]}


def found(service):
    return [(finding["id"], finding["variant"]) for finding in service["findings"]]


def steps(service):
    return [step["step"] for step in service["timeline"][0]["steps"]]


# -- services that are well


@pytest.fixture(scope="module")
def space(play, new_namespace, apply, kubectl):
    """A namespace with one service of ours, one of kubectl's, and one that is no NIM."""
    namespace = new_namespace("inspect")
    play(secret(namespace))
    variable = {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}}
    small = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}  # KServe's: 1 CPU
    container = {
        "name": "kserve-container",
        "image": IMAGE,
        "resources": small,
        "ports": [{"containerPort": 8000}],
        "env": [{"name": "NGC_API_KEY", "valueFrom": variable}],
    }
    byhand = {"containers": [container], "imagePullSecrets": [{"name": "ngc-secret"}], "minReplicas": 1}
    another = {"name": "kserve-container", "image": "registry.example/sklearn:1", "resources": small}
    other = {"containers": [another], "minReplicas": 1}
    for name, predictor in (("byhand", byhand), ("no-nim", other)):
        apply(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"predictor": predictor},
            }
        )
    play(kserve(namespace, name="ours"))
    kubectl("wait", "--for=condition=Ready", "inferenceservice/byhand", "-n", namespace, "--timeout=120s")
    return namespace


def test_services_that_are_well_have_a_timeline_and_no_finding(play, space, audit):
    with audit(space) as seen:
        result = play(info(space)).result
    services = by_name(result)
    assert list(services) == ["byhand", "ours"]
    for service in services.values():
        assert (service["state"], service["ready"]) == ("ready", True)
        assert (service["findings"], service["worst"]) == ([], "none")
        assert steps(service)[-2:] == ["loading", "ready"]
        assert service["image"] == IMAGE
        assert service["replicas"] == {"wanted": 1, "ready": 1}
        assert service["url"].startswith(f"http://{service['name']}-")
        assert service["address"] == "127.0.0.1"
    assert (services["ours"]["managed_by"], services["byhand"]["managed_by"]) == ("gpuops.nim", "kubectl")
    assert (result["worst"], result["counts"], result["not_looked_at"]) == ("none", {"ready": 2}, [])
    assert not result["changed"]
    assert len(seen.requests) <= COSTS
    assert not seen.writes


def test_it_is_the_same_in_every_way_of_running_and_in_check_mode(in_all_ways, space):
    plain = in_all_ways(info(space), volatile=VOLATILE)
    checked = in_all_ways(info(space), check=True, volatile=VOLATILE)
    for one in (plain, checked):
        assert [service["state"] for service in one["services"]] == ["ready", "ready"]


def test_any_service_can_be_named_and_one_that_is_not_there_is_told(play, space):
    result = play(info(space, "no-nim", f"{space}/our", "ours"), fails=False).result
    services = by_name(result)
    assert services["no-nim"]["state"] != "ready"
    assert services["our"]["state"] == "absent"
    assert "did you mean ours?" in services["our"]["findings"][0]["evidence"]
    assert result["worst"] == "error"


def test_the_whole_cluster_costs_as_little(play, space):
    result = play({"gpuops.nim.nim_service_info": {}}).result
    assert {"byhand", "ours"} <= {service["name"] for service in result["services"] if service["namespace"] == space}


def test_a_new_service_gives_no_finding_in_any_of_its_states(play, space, until):
    """Looked at again and again while it comes up, as fast as it goes."""
    play(kserve(space, name="coming", wait=False, env={"NIM_STANDIN_LOAD_SECONDS": "6"}))
    seen = []

    def is_up():
        seen.extend(by_name(look)["coming"] for look in play(*[info(space, "coming")] * 20).results)
        return seen[-1]["ready"]

    until(is_up, "the service to be ready")
    play(kserve(space, name="coming", state="absent"))
    assert [service["findings"] for service in seen if service["findings"]] == []
    assert {"loading", "ready"} <= {service["state"] for service in seen}


# -- services that are not


@pytest.fixture(scope="module")
def broken(play, new_namespace):
    """A namespace with a dead key: two services that can't be pulled."""
    namespace = new_namespace("inspect-dead")
    waits = {"wait_timeout": 30, "image_pull_policy": "Always"}
    services = {"services": [{"name": "one"}, {"name": "two"}]}
    play(secret(namespace, "expired"), kserve(namespace, **services, **waits), fails=None)
    return namespace


def test_a_dead_key_is_named_with_what_the_registry_said(play, broken):
    for service in play(info(broken)).result["services"]:
        assert ("image-pull-refused", "key") in found(service)
        assert service["worst"] == "error"
        assert "401" in service["findings"][0]["evidence"][0]
        assert service["timeline"][0]["stopped_at"] == "pulling"
        assert "nim_secret" in service["findings"][0]["remedy"]


def test_more_services_in_trouble_cost_no_more(play, broken, audit):
    with audit(broken) as one:
        play(info(broken, "one"))
    with audit(broken) as both:
        play(info(broken))
    assert len(both.requests) == len(one.requests)
    assert not [request for request in both.requests if "/secrets/" in request]


@pytest.fixture
def crash(play, space):
    """A service whose container ends again and again."""
    play(kserve(space, name="crash", wait=False, env={"NIM_STANDIN_FAIL": "profile"}))
    yield
    play(kserve(space, name="crash", state="absent"))


@pytest.mark.usefixtures("crash")
def test_a_crash_is_named_from_the_log(play, space, until):
    def looked():
        service = by_name(play(info(space, "crash")).result)["crash"]
        named = ("crash-loop", "profile") in found(service)
        return service if named and service["timeline"][0]["stopped_at"] == "restarting" else None

    service = until(looked, "the crash to be named, and the container to be in its pause")
    (row,) = service["timeline"]
    assert row["restart_count"] >= 1
    assert row["restarts"][-1]["exit_code"] == 1


# -- the original's services


def test_a_service_of_arenas_is_found(play, arena, space):
    line = (
        f"--name=old --image={IMAGE} --image-pull-secret=ngc-secret --gpus=0 --cpu=50m --memory=128Mi --port=8000 "
        "--env-from-secret NGC_API_KEY=nvidia-nim-secrets"
    ).split()
    arena("serve", "kserve", f"--namespace={space}", *line)
    assert by_name(play(info(space)).result)["old"]["managed_by"] == "arena"
    arena("serve", "delete", "old", f"--namespace={space}")


# -- services of the NIM Operator; the operator itself is not run: its objects are made as it makes them


CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "nimservices.apps.nvidia.com"},
    "spec": {
        "group": "apps.nvidia.com",
        "scope": "Namespaced",
        "names": {"plural": "nimservices", "singular": "nimservice", "kind": "NIMService"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def operators(apply, kubectl, play, new_namespace):
    """A namespace with three NIMServices: over a Deployment, over a StatefulSet, and one that nobody acted on."""
    apply(CRD)
    kubectl("wait", "--for=condition=Established", "crd/nimservices.apps.nvidia.com", "--timeout=30s")
    namespace = new_namespace("inspect-operator")
    play(secret(namespace))
    repository, _colon, tag = IMAGE.rpartition(":")
    for name, kind in (("set", "StatefulSet"), ("silent", ""), ("nim", "Deployment")):
        metadata = {"name": name, "namespace": namespace}
        image = {"repository": repository, "tag": tag, "pullSecrets": ["ngc-secret"]}
        spec = {"image": image, "authSecret": "nvidia-nim-secrets", "replicas": 1}
        apply({"apiVersion": "apps.nvidia.com/v1alpha1", "kind": "NIMService", "metadata": metadata, "spec": spec})
        if kind:
            apply(workload(namespace, name, kind))
    for name in ("deployment/nim", "statefulset/set"):
        kubectl("rollout", "status", name, "-n", namespace, "--timeout=120s")
    yield namespace
    kubectl("delete", "crd", "nimservices.apps.nvidia.com")


def workload(namespace, name, kind):
    labels = {"app.kubernetes.io/managed-by": "k8s-nim-operator", "app.kubernetes.io/part-of": "nim-service"}
    variable = {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}}
    container = {
        "name": f"{name}-ctr",
        "image": IMAGE,
        "env": [{"name": "NGC_API_KEY", "valueFrom": variable}],
        "readinessProbe": {"httpGet": {"path": "/v1/health/ready", "port": 8000}, "periodSeconds": 1},
    }
    pod = {"containers": [container], "imagePullSecrets": [{"name": "ngc-secret"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
            **({"serviceName": name} if kind == "StatefulSet" else {}),
        },
    }


def test_services_of_the_nim_operator_are_judged_by_their_pods(play, operators, until):
    def looked():
        services = by_name(play(info(operators)).result)
        return services if services["silent"]["findings"] else None

    services = until(looked, "the silence to be long enough")
    for name in ("nim", "set"):
        service = services[name]
        assert (service["state"], service["findings"]) == ("ready", []), service
        assert (service["kind"], service["managed_by"], service["image"]) == ("NIMService", "NIM Operator", IMAGE)
        assert steps(service)[-1] == "ready"
    assert found(services["silent"]) == [("controller-silent", "nim-operator")]
    assert services["silent"]["state"] == "scheduling"


def test_a_pod_of_the_nim_operator_that_can_not_be_pulled_is_named(play, operators, kubectl, until):
    kubectl("set", "image", "deployment/nim", f"nim-ctr={IMAGE}-nosuch", "-n", operators)
    change = f'{{"spec":{{"image":{{"tag":"{IMAGE.rpartition(":")[2]}-nosuch"}}}}}}'
    kubectl("patch", "nimservice", "nim", "-n", operators, "--type=merge", "-p", change)
    until(
        lambda: ("image-pull-refused", "name") in found(by_name(play(info(operators)).result)["nim"]),
        "the missing tag to be named",
    )
    nim = by_name(play(info(operators)).result)["nim"]
    assert [row["current"] for row in nim["timeline"]] == [True, False]  # the old one still serves


# -- with few rights


@pytest.fixture(scope="module")
def limited(space, apply):
    """`limited("pods", ...)`: options of a login that may list InferenceServices and these in the namespace."""

    def limited(*resources):
        name = f"looker-{len(resources)}"
        metadata = {"name": name, "namespace": space}
        rules = [
            {
                "apiGroups": ["serving.kserve.io", "apps", "", "discovery.k8s.io", "autoscaling", "networking.k8s.io"],
                "resources": ["inferenceservices", *resources],
                "verbs": ["list"],
            }
        ]
        api = "rbac.authorization.k8s.io"
        apply({"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
        apply(
            {
                "apiVersion": f"{api}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
                "subjects": [{"apiGroup": api, "kind": "User", "name": name}],
            }
        )
        return {"impersonate_user": name}

    return limited


def test_what_may_not_be_read_is_said_and_the_rest_is_judged(play, space, limited):
    result = play(info(space, **limited("deployments", "replicasets", "pods"))).result
    assert {service["state"] for service in result["services"]} == {"ready"}
    for kind in ("Event", "Ingress", "Service"):
        assert f"{kind} objects of namespace {space}: no right to list them" in result["not_looked_at"]
    assert not [part for part in result["not_looked_at"] if "Pod " in part]


def test_without_a_look_at_pods_the_state_is_unknown(play, space, limited):
    result = play(info(space, **limited())).result
    for service in result["services"]:
        assert service["state"] == "unknown"
        assert "Deployment objects may not be read; KServe says of Ready: True" in service["detail"]


def test_without_any_right_it_fails_rather_than_say_all_is_well(play, space):
    message = play(info(space, impersonate_user="nobody"), fails=True).result["msg"]
    assert "No InferenceService" in message
    assert "inferenceservices.serving.kserve.io" in message


# -- bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"namespaces": ["Not_A_Name"]}, "namespaces: 'Not_A_Name'"),
        ({"services": ["a/b/c"]}, "NAME or NAMESPACE/NAME"),
        ({"services": ["x/y"], "namespaces": ["z"]}, "not in one of the namespaces z"),
    ],
)
def test_options_that_can_not_be_right(play, options, says):
    task = {"gpuops.nim.nim_service_info": {**options, "host": "https://127.0.0.1:1"}}
    assert says in play(task, fails=True).result["msg"]
