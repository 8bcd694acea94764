# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_release
from ansible_collections.gpuops.nim.plugins.module_utils._nim.kserve_release import Options

Object = dict[str, Any]


def obj(kind: str, name: str, **rest: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **rest}


def deployment() -> Object:
    containers = [
        {"name": "manager", "image": "kserve/kserve-controller:v0.20.0"},
        {"name": "kube-rbac-proxy", "image": "quay.io/brancz/kube-rbac-proxy:v0.18.0"},
    ]
    template = {"metadata": {}, "spec": {"containers": containers}}
    return obj("Deployment", kserve_release.CONTROLLER, spec={"template": template})


def published() -> list[Object]:
    """The kinds of thing that the published file holds."""
    ingress = {"ingressGateway": "knative-serving/x", "ingressClassName": "istio", "disableIstioVirtualHost": False}
    data = {
        "_example": "not JSON",
        "deploy": '{"defaultDeploymentMode": "Serverless"}',
        "ingress": json.dumps(ingress),
        "explainers": '{"art": {"image": "kserve/art-explainer"}}',
    }
    webhook = obj("ValidatingWebhookConfiguration", "inferenceservice.serving.kserve.io")
    webhook["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": "kserve/serving-cert", "kept": "1"}
    webhook["webhooks"] = [{"clientConfig": {"service": {"name": "x"}}}]
    return [
        obj("CustomResourceDefinition", "inferenceservices.serving.kserve.io", spec={"image": {"type": "object"}}),
        obj("CustomResourceDefinition", "llminferenceservices.serving.kserve.io"),
        obj("CustomResourceDefinition", "inferencepools.inference.networking.k8s.io"),
        obj("ConfigMap", kserve_release.CONFIG, data=data),
        deployment(),
        obj("Deployment", "kserve-localmodel-controller-manager"),
        obj("Service", "metrics", spec={"ports": [{"port": 8443, "targetPort": "https"}]}),
        obj("Certificate", "serving-cert"),
        obj("Certificate", "llmisvc-serving-cert"),
        obj("Issuer", "selfsigned-issuer"),
        webhook,
    ]


def made(options: Options, ca: str = "") -> dict[str, Object]:
    objects = kserve_release.adapted(kserve_release.serving(published()), options, ca)
    return {f"{each['kind']} {each['metadata']['name']}": each for each in objects}


def test_only_what_serves_inference_services() -> None:
    assert set(made(Options("0.20.0"))) == {
        "Namespace kserve",
        "CustomResourceDefinition inferenceservices.serving.kserve.io",
        "ConfigMap inferenceservice-config",
        "Deployment kserve-controller-manager",
        "Service metrics",
        "ValidatingWebhookConfiguration inferenceservice.serving.kserve.io",
    }
    names = [each["metadata"]["name"] for each in kserve_release.certificate_objects(published())]
    assert names == ["serving-cert", "selfsigned-issuer"]


def test_what_is_not_used_is_not_read() -> None:
    text = "".join(f"---\n{yaml.safe_dump(each)}" for each in published())
    read = [yaml.safe_load(each) for each in kserve_release.texts(text)]
    assert kserve_release.serving(filter(None, read)) == kserve_release.serving(published())
    assert not [each for each in read if each and "llm" in each["metadata"]["name"]]


def test_the_release_is_that_of_the_controllers_image() -> None:
    assert kserve_release.version_of(published()) == "0.20.0"
    assert kserve_release.version_of([obj("Deployment", "other")]) == ""


def test_settings() -> None:
    options = Options("0.20.0", ingress_class="nginx", ingress_domain="m.example.org", url_scheme="https")
    data = made(options)["ConfigMap inferenceservice-config"]["data"]
    assert "_example" not in data
    assert json.loads(data["deploy"]) == {"defaultDeploymentMode": "Standard"}
    ingress = json.loads(data["ingress"])
    assert ingress == {
        "ingressGateway": "knative-serving/x",
        "ingressClassName": "nginx",
        "disableIstioVirtualHost": True,
        "ingressDomain": "m.example.org",
        "urlScheme": "https",
    }
    gateway = json.loads(
        made(Options("0.20.0", gateway="infra/g"))["ConfigMap inferenceservice-config"]["data"]["ingress"]
    )
    assert (gateway["enableGatewayApi"], gateway["kserveIngressGateway"]) == (True, "infra/g")


def test_a_mirror_keeps_the_paths_wherever_an_image_is_named() -> None:
    all_of = made(Options("0.20.0", registry="mirror.example.com:5000/k8s/", pull_secrets=("s",)))
    pod = all_of["Deployment kserve-controller-manager"]["spec"]["template"]["spec"]
    assert [each["image"] for each in pod["containers"]] == [
        "mirror.example.com:5000/k8s/kserve/kserve-controller:v0.20.0",
        "mirror.example.com:5000/k8s/brancz/kube-rbac-proxy:v0.18.0",
    ]
    assert pod["imagePullSecrets"] == [{"name": "s"}]
    data = all_of["ConfigMap inferenceservice-config"]["data"]
    assert json.loads(data["explainers"])["art"]["image"] == "mirror.example.com:5000/k8s/kserve/art-explainer"
    # a schema has a field of this name
    crd = all_of["CustomResourceDefinition inferenceservices.serving.kserve.io"]
    assert crd["spec"]["image"] == {"type": "object"}


@pytest.mark.parametrize(
    ("image", "mirrored"),
    [
        ("ubuntu:1", "m/ubuntu:1"),
        ("library/ubuntu:1", "m/library/ubuntu:1"),
        ("localhost/a:1", "m/a:1"),
        ("r.io:5000/a/b@sha256:0", "m/a/b@sha256:0"),
    ],
)
def test_mirrored(image: str, mirrored: str) -> None:
    assert kserve_release.mirrored(image, "m") == mirrored
    assert kserve_release.mirrored(image, "") == image


def test_who_is_trusted_is_said_by_us_or_by_cert_manager() -> None:
    name = "ValidatingWebhookConfiguration inferenceservice.serving.kserve.io"
    ours = made(Options("0.20.0"), "Q0E=")[name]
    assert ours["webhooks"][0]["clientConfig"]["caBundle"] == "Q0E="
    assert ours["metadata"]["annotations"] == {"kept": "1"}
    theirs = made(Options("0.20.0"))[name]
    assert "caBundle" not in theirs["webhooks"][0]["clientConfig"]
    assert "cert-manager.io/inject-ca-from" in theirs["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("annotations", "ours"),
    [
        ({"cert-manager.io/certificate-name": "serving-cert"}, True),
        ({"cert-manager.io/certificate-name": "selfsigned-issuer"}, False),
        ({"cert-manager.io/certificate-name": "theirs"}, False),
        (None, False),
    ],
)
def test_a_secret_that_cert_manager_made_for_kserve_is_known(annotations: Object | None, ours: bool) -> None:
    secret = obj("Secret", kserve_release.CERTIFICATE_SECRET)
    secret["metadata"]["annotations"] = annotations
    assert kserve_release.made_for(secret, kserve_release.certificate_objects(published())) is ours


def test_without_the_metrics_proxy_nothing_points_to_it() -> None:
    all_of = made(Options("0.20.0", metrics_proxy=False))
    assert "Service metrics" not in all_of
    containers = all_of["Deployment kserve-controller-manager"]["spec"]["template"]["spec"]["containers"]
    assert [each["name"] for each in containers] == ["manager"]


def test_the_controller_starts_anew_when_its_settings_change() -> None:
    def notes(options: Options) -> Object:
        template = made(options)["Deployment kserve-controller-manager"]["spec"]["template"]
        return copy.deepcopy(template["metadata"]["annotations"])

    assert notes(Options("0.20.0")) == notes(Options("0.20.0"))
    assert notes(Options("0.20.0")) != notes(Options("0.20.0", ingress_class="nginx"))


@pytest.mark.parametrize(
    ("installed", "wanted", "words"),
    [
        ("0.19.0", "0.20.0", ""),
        ("0.19.0", "0.19.1", ""),
        ("0.20.0", "0.20.0", ""),
        ("0.18.0", "0.20.0", "a 0.19 release comes next"),
        ("0.20.0", "1.0.0", "more than one minor release"),
        ("0.20.0", "0.19.0", "downgrade"),
        ("0.20.1", "0.20.0", "downgrade"),
        ("0.9.0", "0.10.0", ""),
    ],
)
def test_upgrades_go_one_minor_at_a_time(installed: str, wanted: str, words: str) -> None:
    said = kserve_release.step(installed, wanted)
    assert words in said
    assert bool(said) == bool(words)
