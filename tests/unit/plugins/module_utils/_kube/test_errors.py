# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers as kube-apiserver v1.36 gave them, and what we make of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube import errors

PATH = "/apis/apps/v1/namespaces/default/deployments/d?fieldManager=gpuops.nim"


def answer(status: int, message: str, path: str = PATH, headers: Any = None, **details: Any) -> errors.KubeError:
    body = json.dumps({"kind": "Status", "message": message, "details": details, "code": status}).encode()
    return errors.from_response(status, body, method="PATCH", path=path, headers=headers or {})


def test_forbidden_holds_the_missing_rule_ready_to_paste() -> None:
    error = answer(
        403,
        'inferenceservices.serving.kserve.io "x" is forbidden: User "jane" cannot patch resource "inferenceservices" '
        'in API group "serving.kserve.io" in the namespace "prod"',
    )
    assert isinstance(error, errors.Forbidden)
    assert '{apiGroups: ["serving.kserve.io"], resources: ["inferenceservices"], verbs: ["patch"]}' in error.message
    assert "jane" in error.message
    assert "namespace prod" in error.message
    assert (error.verb, error.group, error.resource, error.namespace) == (
        "patch",
        "serving.kserve.io",
        "inferenceservices",
        "prod",
    )


def test_forbidden_of_the_cluster_and_of_a_path_want_a_cluster_role() -> None:
    nodes = answer(
        403, 'nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope'
    )
    assert isinstance(nodes, errors.Forbidden)
    assert 'ClusterRole bound to that user: {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}' in nodes.message
    assert nodes.namespace is None
    path = answer(403, 'forbidden: User "jane" cannot get path "/version"')
    assert '{nonResourceURLs: ["/version"], verbs: ["get"]}' in path.message


@pytest.mark.parametrize(
    ("status", "message", "webhook"),
    [
        (
            403,
            'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: no such mode',
            "inferenceservice.kserve-webhook-server.validator",
        ),
        (400, 'admission webhook "a.b" denied the request without explanation', "a.b"),
        (
            422,
            "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            "p",
        ),
        (403, 'pods "p" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "PodSecurity"),
        (403, 'pods "p" is forbidden: exceeded quota: gpus, requested: 1, used: 4, limited: 4', "quota"),
        (403, 'pods "p" is forbidden: error looking up service account a/b: serviceaccount "b" not found', ""),
    ],
)
def test_admission_keeps_the_servers_words(status: int, message: str, webhook: str) -> None:
    error = answer(status, message)
    assert isinstance(error, errors.AdmissionDenied)
    assert error.message.startswith(message)
    assert error.webhook == webhook


def test_conflict_names_managers_and_fields_and_the_remedy() -> None:
    cause = {
        "reason": "FieldManagerConflict",
        "message": 'conflict with "kubectl-edit" using apps/v1',
        "field": ".spec.replicas",
    }
    error = answer(409, 'Apply failed with 1 conflict: conflict with "kubectl-edit"', causes=[cause])
    assert isinstance(error, errors.Conflict)
    assert (error.managers, error.fields) == (("kubectl-edit",), (".spec.replicas",))
    assert ".spec.replicas is held by kubectl-edit" in error.message
    assert "adopt: true" in error.message


def test_a_stale_write_is_a_conflict_without_managers() -> None:
    error = answer(409, 'Operation cannot be fulfilled on deployments.apps "d": the object has been modified')
    assert isinstance(error, errors.Conflict)
    assert error.managers == ()


def test_invalid_names_the_fields() -> None:
    cause = {"reason": "FieldValueInvalid", "message": "Invalid value: -1", "field": "spec.replicas"}
    error = answer(422, 'Deployment.apps "d" is invalid: spec.replicas: Invalid value: -1', causes=[cause])
    assert isinstance(error, errors.Invalid)
    assert error.causes == (("spec.replicas", "Invalid value: -1"),)


@pytest.mark.parametrize("lead", ["", "errors:\n  "])
def test_a_misspelt_field_is_invalid_though_the_server_says_500(lead: str) -> None:
    error = answer(
        500,
        "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): "
        f'{lead}.spec.template.spec.containers[name="c"].imge: field not declared in schema',
    )
    assert isinstance(error, errors.Invalid)
    assert error.causes == (('.spec.template.spec.containers[name="c"].imge', "field not declared in schema"),)


def test_an_unreachable_webhook_is_named() -> None:
    error = answer(500, 'Internal error occurred: failed calling webhook "a.b": Post "https://x": connection refused')
    assert isinstance(error, errors.Unreachable)
    assert error.webhook == "a.b"
    for part in ("webhook a.b does not answer", "nothing was written", "connection refused", "run this again"):
        assert part in error.message


def test_a_store_that_is_down_is_not_the_servers_own_trouble() -> None:
    timeout = {"metadata": {}, "status": "Failure", "message": "Timeout: request did not complete within", "code": 504}
    timeout["message"] += " the allotted timeout"
    for body in (json.dumps(timeout), json.dumps({**timeout, "kind": "Status", "message": "etcdserver: no leader"})):
        error = errors.from_response(504, body.encode(), method="GET", path="/api/v1/namespaces/a", headers={})
        assert isinstance(error, errors.Unreachable)
        assert "etcd" in error.message
        assert "{" not in error.message


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (
            'secrets "x" is forbidden: exceeded quota: tight, requested: count/secrets=1, used: count/secrets=1',
            "kubectl -n default describe quota tight",
        ),
        (
            'persistentvolumeclaims "m" is forbidden: maximum storage usage per PersistentVolumeClaim is 500Mi, but '
            "request is 1Gi",
            "kubectl -n default describe limitrange",
        ),
    ],
)
def test_what_the_namespace_does_not_allow_comes_with_a_remedy(text: str, remedy: str) -> None:
    error = answer(403, text)
    assert isinstance(error, errors.AdmissionDenied)
    assert text in error.message
    assert remedy in error.message


def test_retry_after_is_passed_on() -> None:
    assert answer(429, "too many", headers={"Retry-After": "7"}).retry_after == 7
    assert answer(503, "away").retry_after is None


@pytest.mark.parametrize(
    ("body", "path", "kind"),
    [
        (b"404 page not found\n", "/apis/serving.kserve.io/v1beta1/namespaces/a/inferenceservices/x", "inferenceserv"),
        (
            b'{"kind":"Status","message":"the server could not find the requested resource","details":{}}',
            "/api/v1/foos?limit=1",
            "foos",
        ),
    ],
)
def test_404_of_an_api_is_told_from_404_of_an_object(body: bytes, path: str, kind: str) -> None:
    error = errors.from_response(404, body, method="GET", path=path, headers={})
    assert isinstance(error, errors.KindMissing)
    assert error.kind.startswith(kind)
    assert isinstance(answer(404, 'deployments.apps "d" not found', name="d", kind="deployments"), errors.NotFound)


def test_a_namespace_on_its_way_out_is_said_to_be() -> None:
    message = "unable to create new content in namespace a because it is being terminated"
    error = answer(403, message, causes=[{"reason": "NamespaceTerminating"}])
    assert isinstance(error, errors.Deleting)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b"Client sent an HTTP request to an HTTPS server.\n", "https://"),
        (302, b"", "https://login.example.com"),
    ],
)
def test_a_wrong_address_is_blamed_on_host(status: int, body: bytes, said: str) -> None:
    headers = {"Location": "https://login.example.com"}
    error = errors.from_response(status, body, method="GET", path="/version", headers=headers)
    assert isinstance(error, errors.ConfigError)
    assert error.message.startswith("host:")
    assert said in error.message
