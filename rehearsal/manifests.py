# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes the bare control plane a KServe cluster: upstream's own files, changed only where it runs outside pods."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import yaml

from rehearsal.layout import NAMESPACE_CONTOUR, NAMESPACE_KSERVE, SMALL_REQUESTS, STORAGE_PROVISIONER, Layout, url
from rehearsal.toolchain import Toolchain

_WEBHOOK = "inferenceservice.serving.kserve.io"
_KSERVE_RBAC = ("role.yaml", "role_binding.yaml", "leader_election_role.yaml", "leader_election_role_binding.yaml")


def paths(layout: Layout, tools: Toolchain) -> list[Path]:
    """Files and folders for ``kubectl apply``, upstream's CRDs as they are and the rest written to one file."""
    kserve, contour = tools.folders["kserve"], tools.folders["contour"]
    documents = [
        _namespace(NAMESPACE_CONTOUR),
        *_load(contour / "02-rbac.yaml"),
        *_load(contour / "02-role-contour.yaml"),
        *([] if layout.bare.exists() else _kserve(kserve, layout.ca.read_bytes())),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": "contour"},
            "spec": {"controller": "projectcontour.io/contour"},
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "rehearsal", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": STORAGE_PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        *_small_requests(),
    ]
    own = layout.config / "manifests.yaml"
    own.write_text(yaml.safe_dump_all(documents))
    if layout.bare.exists():
        return [own, contour / "01-crds.yaml"]
    # from 0.18 on the kind that storageUri asks for lies apart
    crds = [*(kserve / "full").glob("*_*.yaml"), *(kserve / "full").glob("*/*_clusterstoragecontainers.yaml")]
    return [own, contour / "01-crds.yaml", *sorted(crds)]


def _kserve(kserve: Path, ca: bytes) -> list[dict[str, Any]]:
    """What its manager needs beside the CRDs when it runs outside the cluster."""
    return [
        _namespace(NAMESPACE_KSERVE),
        *(_in_kserve(document) for name in _KSERVE_RBAC for document in _load(kserve / "rbac" / name)),
        _kserve_config(kserve),
        *_webhooks(kserve, ca),
    ]


def _load(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _small_requests() -> list[dict[str, Any]]:
    """Where the namespace's label asks for it, pods of any size fit: they request next to nothing, limits stay."""
    name, (key, value) = "small-requests.rehearsal.gpuops.nim", SMALL_REQUESTS
    each = """object.spec.{0}.map(c, Object.spec.{0}{{name: c.name, resources: Object.spec.{0}.resources{{
        requests: {{"cpu": "10m", "memory": "16Mi"}}}}}})"""
    expression = f"""Object{{spec: Object.spec{{
        containers: {each.format("containers")},
        initContainers: has(object.spec.initContainers) ? {each.format("initContainers")} : []}}}}"""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    match = {"namespaceSelector": {"matchLabels": {key: value}}}
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",  # webhooks add containers
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
    }
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    return [
        {**head, "kind": "MutatingAdmissionPolicy", "spec": policy},
        {**head, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": name, "matchResources": match}},
    ]


def _in_kserve(document: dict[str, Any]) -> dict[str, Any]:
    """What upstream's kustomization does: put namespaced objects, and the subjects of bindings, into the namespace."""
    if not document["kind"].startswith("Cluster"):
        document["metadata"]["namespace"] = NAMESPACE_KSERVE
    for subject in document.get("subjects", []):
        subject["namespace"] = NAMESPACE_KSERVE
    return document


def _kserve_config(kserve: Path) -> dict[str, Any]:
    (config,) = _load(kserve / "configmap" / "inferenceservice.yaml")
    del config["data"]["_example"]
    changes: dict[str, dict[str, Any]] = {
        "deploy": {"defaultDeploymentMode": "Standard"},
        "ingress": {"ingressClassName": "contour", "disableIstioVirtualHost": True},
    }
    for key, change in changes.items():
        config["data"][key] = json.dumps({**json.loads(config["data"][key]), **change})
    return config


def _webhooks(kserve: Path, ca: bytes) -> list[dict[str, Any]]:
    """The two configurations for InferenceServices, pointing to the manager's port instead of a Service."""
    everything = _load(kserve / "webhook" / "manifests.yaml")
    documents = [document for document in everything if document["metadata"]["name"] == _WEBHOOK]
    for document in documents:
        document["metadata"].pop("creationTimestamp", None)
        for webhook in document["webhooks"]:
            path = webhook["clientConfig"].pop("service")["path"]
            webhook["clientConfig"] = {
                "url": url("kserve-webhook", "https") + path,
                "caBundle": base64.b64encode(ca).decode(),
            }
    return documents
