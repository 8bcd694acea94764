# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""A release of KServe as it is to run here, made from the manifests that KServe publishes. Pure.

Of the published file, only what serves InferenceServices is used: not LLMInferenceService, which brings a controller
and gateway types of its own, and not the local model cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

NAMESPACE = "kserve"  # written into the published file in many places
CONTROLLER = "kserve-controller-manager"
CONTROLLER_LABEL = "control-plane=kserve-controller-manager"
CONFIG = "inferenceservice-config"
WEBHOOK_CONFIGURATION = "inferenceservice.serving.kserve.io"
CERTIFICATE_SECRET = "kserve-webhook-server-cert"
WEBHOOK_HOST = f"kserve-webhook-server-service.{NAMESPACE}.svc"
INSTALLER = "gpuops.nim/kserve-version"  # label of the Deployment: what this collection has installed
_CONFIG_SUM = "gpuops.nim/config-sum"

_OTHERS = re.compile(r"llm|localmodel|inferencepool|inferenceobjective|inferencemodel")
_PROXY = "kube-rbac-proxy"
_MADE_FOR = "cert-manager.io/certificate-name"
_INJECTION = "cert-manager.io/inject-ca-from"
_IMAGE_KEYS = ("image", "defaultJobImage")


@dataclass(frozen=True)
class Options:
    """``registry``: in place of the registries in the manifests; ``gateway``: namespace/name of a Gateway, empty for
    Ingresses.
    """

    version: str
    registry: str = ""
    pull_secrets: tuple[str, ...] = ()
    ingress_class: str = ""
    ingress_domain: str = "example.com"
    url_scheme: str = "http"
    gateway: str = ""
    metrics_proxy: bool = True


def texts(manifests: str) -> list[str]:
    """The documents of the file, unread, without those that `serving` leaves out: they are most of its megabytes."""
    documents = re.split(r"^---[ \t]*$", manifests, flags=re.M)
    return [text for text in documents if not any(map(_OTHERS.search, re.findall(r"^  name: (.+)$", text, re.M)))]


def version_of(documents: Iterable[Object]) -> str:
    """The release that the manifests are of, such as 0.20.0; empty when they are no KServe's."""
    for obj in documents:
        if obj["kind"] == "Deployment" and obj["metadata"]["name"] == CONTROLLER:
            for container in obj["spec"]["template"]["spec"]["containers"]:
                if container["name"] == "manager":
                    return _tag(container["image"])
    return ""


def serving(documents: Iterable[Object]) -> list[Object]:
    """What InferenceServices need, without what needs cert-manager, with the namespace first."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kept = [
        obj
        for obj in documents
        if not _OTHERS.search(obj["metadata"]["name"]) and obj["kind"] not in ("Namespace", "Certificate", "Issuer")
    ]
    return [namespace, *kept]


def certificate_objects(documents: Iterable[Object]) -> list[Object]:
    """The Issuer and the Certificate of the webhook, for cert-manager."""
    return [
        obj
        for obj in documents
        if obj["kind"] in ("Certificate", "Issuer") and not _OTHERS.search(obj["metadata"]["name"])
    ]


def made_for(secret: Object, certificates: Iterable[Object]) -> bool:
    """Whether cert-manager has made the Secret for one of these Certificates: it says so itself."""
    names = {obj["metadata"]["name"] for obj in certificates if obj["kind"] == "Certificate"}
    return (secret["metadata"].get("annotations") or {}).get(_MADE_FOR) in names


def adapted(objects: Iterable[Object], options: Options, ca: str = "") -> list[Object]:
    """The objects with this cluster's settings. ``ca`` (base64 of PEM): what the webhook's certificate is signed by;
    empty where cert-manager says it. The objects given are changed.
    """
    result = []
    for obj in objects:
        if obj["kind"] == "Service" and not options.metrics_proxy and _targets_proxy(obj):
            continue
        if obj["kind"] == "ConfigMap" and obj["metadata"]["name"] == CONFIG:
            obj["data"] = _settings(obj["data"], options)
        if ca:
            _trust(obj, ca)
        for holder, key in _images(obj):
            holder[key] = mirrored(holder[key], options.registry)
        result.append(obj)
    config = json.dumps([obj["data"] for obj in result if obj["kind"] == "ConfigMap"], sort_keys=True)
    for obj in result:
        if obj["kind"] == "Deployment":
            _deployment(obj, options, hashlib.sha256(config.encode()).hexdigest()[:16])
    return result


def mirrored(image: str, registry: str) -> str:
    """The image as a mirror has it that keeps the paths: quay.io/brancz/x:1 is mirror/brancz/x:1."""
    if not registry:
        return image
    first, slash, rest = image.partition("/")
    path = rest if slash and ("." in first or ":" in first or first == "localhost") else image
    return f"{registry.rstrip('/')}/{path}"


def step(installed: str, wanted: str) -> str:
    """What is wrong with going from one release to the other; empty if nothing is.

    KServe's releases are upgraded one minor at a time: each is tested with the objects of the one before it.
    """
    here, there = _numbers(installed), _numbers(wanted)
    if there < here:
        return f"KServe {installed} is installed, and a downgrade to {wanted} is not supported."
    if there[:1] != here[:1] or there[1] > here[1] + 1:
        following = f"{here[0]}.{here[1] + 1}"
        return (
            f"KServe {installed} is installed, and {wanted} is more than one minor release away. "
            f"Upgrade one at a time: a {following} release comes next."
        )
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _tag(image: str) -> str:
    match = re.search(r":v?(\d+\.\d+\.\d+[\w.-]*)$", image)
    return match[1] if match else ""


def _settings(data: dict[str, str], options: Options) -> dict[str, str]:
    changes: dict[str, Object] = {
        "deploy": {"defaultDeploymentMode": "Standard"},
        "ingress": {
            "ingressDomain": options.ingress_domain,
            "urlScheme": options.url_scheme,
            "disableIstioVirtualHost": True,
            **({"ingressClassName": options.ingress_class} if options.ingress_class else {}),
            **({"enableGatewayApi": True, "kserveIngressGateway": options.gateway} if options.gateway else {}),
        },
    }
    result = {}
    for key, text in data.items():
        if key == "_example":  # pages of documentation
            continue
        value = json.loads(text)
        value.update(changes.get(key, {}))
        for holder, name in _images(value):
            holder[name] = mirrored(holder[name], options.registry)
        result[key] = json.dumps(value, indent=2)
    return result


def _images(node: Any) -> Iterator[tuple[Object, str]]:
    if isinstance(node, dict):
        if node.get("kind") == "CustomResourceDefinition":
            return
        for key, value in node.items():
            if key in _IMAGE_KEYS and isinstance(value, str):
                yield node, key
            else:
                yield from _images(value)
    elif isinstance(node, list):
        for item in node:
            yield from _images(item)


def _trust(obj: Object, ca: str) -> None:
    notes = obj["metadata"].get("annotations") or {}
    if _INJECTION in notes:
        obj["metadata"]["annotations"] = {key: value for key, value in notes.items() if key != _INJECTION}
    for webhook in obj.get("webhooks") or ():
        webhook["clientConfig"]["caBundle"] = ca


def _deployment(obj: Object, options: Options, config_sum: str) -> None:
    pod = obj["spec"]["template"]
    # the controller reads some of its settings only when it starts
    pod["metadata"].setdefault("annotations", {})[_CONFIG_SUM] = config_sum
    obj["metadata"].setdefault("labels", {})[INSTALLER] = options.version
    if options.pull_secrets:
        pod["spec"]["imagePullSecrets"] = [{"name": name} for name in options.pull_secrets]
    if not options.metrics_proxy:
        pod["spec"]["containers"] = [each for each in pod["spec"]["containers"] if each["name"] != _PROXY]


def _targets_proxy(service: Object) -> bool:
    return any(port.get("targetPort") == "https" for port in service["spec"]["ports"])
