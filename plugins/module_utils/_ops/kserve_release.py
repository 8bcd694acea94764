# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""KServe itself: found, installed, upgraded by one step, removed. Somebody else's is left as it is."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    AdmissionDenied,
    Invalid,
    KindMissing,
    NotFound,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import is_ours
from ansible_collections.gpuops.nim.plugins.module_utils._nim import gateway, kserve_config, kserve_release, manifests
from ansible_collections.gpuops.nim.plugins.module_utils._ops import webhook_certificate
from ansible_collections.gpuops.nim.plugins.module_utils._ops.batch import Batch
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result

Object = dict[str, Any]

CERT_MANAGER, SELF_SIGNED = "cert_manager", "self_signed"
_NAMED = 10


@dataclass(frozen=True)
class Found:
    """What there is of KServe. ``managed``: this collection installed it; ``available``: its controller runs, or is not
    to be seen because it runs outside the cluster.
    """

    installed: bool = False
    managed: bool = False
    version: str | None = None
    mode: str | None = None
    namespace: str | None = None
    available: bool = False


def info(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """What there is, with the InferenceServices that depend on it."""
    client = connect(params)
    return Result(False, {"kserve": {**asdict(find(client)), "inference_services": services(client)}})


def find(client: Client) -> Found:
    """Look for a KServe: its controller wherever it is, or its webhooks when it runs outside the cluster."""
    label = kserve_release.CONTROLLER_LABEL
    controllers = client.list("apps/v1", "Deployment", labels=label).items
    webhooks = client.get(
        "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", kserve_release.WEBHOOK_CONFIGURATION
    )
    if not controllers:
        if webhooks is None or is_ours(webhooks):  # a run of ours that was cut off has left the latter
            return Found()
        config = client.get("v1", "ConfigMap", kserve_config.NAME, kserve_release.NAMESPACE)
        return Found(True, False, None, _mode(config), kserve_release.NAMESPACE if config else None, True)
    controller = controllers[0]
    meta = controller["metadata"]
    containers = controller["spec"]["template"]["spec"]["containers"]
    image = str(next((each["image"] for each in containers if each["name"] == "manager"), ""))
    tag = re.search(r":v?(\d+\.\d+(?:\.\d+)?[\w.-]*)$", image.partition("@")[0])
    version = (meta.get("labels") or {}).get(kserve_release.INSTALLER) or (tag[1] if tag else None)
    config = client.get("v1", "ConfigMap", kserve_config.NAME, meta["namespace"])
    return Found(
        True,
        is_ours(controller),
        version,
        _mode(config),
        meta["namespace"],
        bool((controller.get("status") or {}).get("availableReplicas")),
    )


def _mode(config: Object | None) -> str | None:
    """The mode of services that say none, in today's words."""
    word = kserve_config.parse(config).default_mode if config else ""
    return {"RawDeployment": "Standard", "Serverless": "Knative"}.get(word, word) or None


def services(client: Client) -> list[str]:
    """The InferenceServices of all namespaces, as namespace/name."""
    try:
        found = client.list(manifests.API_VERSION, manifests.KIND, metadata_only=True).items
    except KindMissing:
        return []
    return [f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in found]


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Install, upgrade, converge or remove it.

    :raises OpsError: it can't be done, or failed; what was done is in the error's data.
    """
    client = connect(params)
    found = find(client)
    batch = Batch(client, check_mode=check_mode, diff=diff, progress=progress, adopt=params["adopt"])
    documents = _read(params["manifests"])
    work = _Release(client, params, batch, documents, found)
    with batch.reporting():
        action = work.present() if params["state"] == "present" else work.absent()
    after = find(client) if not check_mode else found
    return batch.result(kserve={**asdict(after), "action": action, "certificates": work.certificates})


class _Release:
    def __init__(
        self, client: Client, params: Mapping[str, Any], batch: Batch, documents: list[Object], found: Found
    ) -> None:
        self.client = client
        self.params = params
        self.batch = batch
        self.documents = documents
        self.found = found
        self.certificates: str | None = None

    def present(self) -> str:
        found, version = self.found, kserve_release.version_of(self.documents)
        if not version:
            raise OpsError(f"manifests: {self.params['manifests']} holds no Deployment {kserve_release.CONTROLLER}.")
        if found.installed and not found.managed and not self.params["adopt"]:
            return "left"
        if found.installed and found.version and found.version != version:
            wrong = kserve_release.step(found.version, version)
            if wrong:
                raise OpsError(wrong)
            if not self.params["upgrade"]:
                self.batch.warnings.append(
                    f"KServe {found.version} stays as it is: {version} would be an upgrade, which may restart the pods "
                    "of its services. Set upgrade: true for it."
                )
                return "left"
        self._check()
        objects = self._objects(version)
        self.batch.apply(objects)
        timeout = self.params["wait_timeout"]
        self.batch.wait_rolled_out(objects, timeout)
        self._wait_webhook(timeout)
        if not self.batch.changed:
            return "unchanged"
        if not found.installed:
            return "installed"
        return "changed" if found.version == version else "upgraded"

    def absent(self) -> str:
        if not self.found.installed and not self.client.serves(manifests.API_VERSION, manifests.KIND):
            return "absent"
        if self.found.installed and not self.found.managed and not self.params["adopt"]:
            raise OpsError("This KServe was not installed by gpuops.nim, so it is not removed. See adopt.")
        there, told = services(self.client), self.params["delete_inference_services"]
        if there and not told:
            more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
            raise OpsError(
                f"Nothing was removed: with KServe, its InferenceServices would go: {', '.join(there[:_NAMED])}{more}. "
                "Remove them first, or set delete_inference_services: true."
            )
        timeout = self.params["wait_timeout"]
        self._remove_services(there, timeout)
        objects = [
            obj for obj in kserve_release.serving(self.documents) if obj["kind"] != "Namespace"
        ]  # what else is in the namespace is not ours to know
        secret = self.client.get("v1", "Secret", kserve_release.CERTIFICATE_SECRET, kserve_release.NAMESPACE)
        if secret and is_ours(secret):
            objects.append(secret)
        certificates = kserve_release.certificate_objects(self.documents)
        if self._cert_manager():
            objects += certificates
        self.batch.remove(objects, with_custom_objects=told)
        self.batch.wait_gone(objects, timeout)
        if secret and kserve_release.made_for(secret, certificates):
            self._remove_others([secret], timeout)  # cert-manager leaves it, and would make it again before that
        return "removed" if self.batch.changed else "absent"

    # what it needs

    def _check(self) -> None:
        wrong = []
        if not re.fullmatch("([^/]+/[^/]+)?", self.params["gateway"]):
            wrong.append(f"gateway: {self.params['gateway']!r} is no namespace/name; KServe won't start with it.")
        if self.params["gateway"] and not self.client.serves(gateway.API_VERSION, "HTTPRoute"):
            wrong.append(
                "gateway: the cluster doesn't have the Gateway API (HTTPRoute); without it KServe won't start."
            )
        if self.params["certificates"] == CERT_MANAGER and not self._cert_manager():
            wrong.append(
                "certificates: cert_manager needs cert-manager, which this cluster doesn't have. "
                "Install it, or choose self_signed."
            )
        if wrong:
            raise OpsError("\n".join(wrong))
        if self.params["gateway"]:
            self._look_for_gateway(*self.params["gateway"].split("/"))
            return
        name = self.params["ingress_class"]
        if name:
            classes = [each["metadata"]["name"] for each in self._classes()]
            if name not in classes:
                there = f"there are: {', '.join(classes)}" if classes else "there is none"
                self.batch.warnings.append(f"ingress_class: the cluster has no IngressClass {name}; {there}.")

    def _look_for_gateway(self, namespace: str, name: str) -> None:
        """It may come later, so it is only a warning."""
        if not self.client.get(gateway.API_VERSION, "Gateway", name, namespace):
            self.batch.warnings.append(f"gateway: the cluster has no Gateway {namespace}/{name}.")

    def _classes(self) -> list[Object]:
        return self.client.list("networking.k8s.io/v1", "IngressClass").items

    def _cert_manager(self) -> bool:
        return self.client.serves("cert-manager.io/v1", "Certificate")

    def _objects(self, version: str) -> list[Object]:
        params = self.params
        options = kserve_release.Options(
            version=version,
            registry=params["image_registry"],
            pull_secrets=tuple(params["image_pull_secrets"]),
            ingress_class=params["ingress_class"],
            ingress_domain=params["ingress_domain"],
            url_scheme=params["url_scheme"],
            gateway=params["gateway"],
            metrics_proxy=params["metrics_proxy"],
        )
        serving = kserve_release.serving(self.documents)
        live = self.client.get("v1", "Secret", kserve_release.CERTIFICATE_SECRET, kserve_release.NAMESPACE)
        self.certificates = self._certificates(live)
        if self.certificates == CERT_MANAGER:
            return [*kserve_release.adapted(serving, options), *kserve_release.certificate_objects(self.documents)]
        secret = webhook_certificate.secret(
            kserve_release.CERTIFICATE_SECRET, kserve_release.NAMESPACE, kserve_release.WEBHOOK_HOST, live
        )
        return [secret, *kserve_release.adapted(serving, options, secret["data"]["ca.crt"])]

    def _certificates(self, live: Object | None) -> str:
        """Who makes the certificate. What is there stays: a change would be a risk for nothing."""
        wanted = str(self.params["certificates"])
        if wanted != "auto":
            return wanted
        if live:
            return SELF_SIGNED if is_ours(live) else CERT_MANAGER
        return CERT_MANAGER if self._cert_manager() else SELF_SIGNED

    # waits

    def _wait_webhook(self, timeout: float) -> None:
        """Until an InferenceService would be taken: what admission says to a dry run."""
        if self.batch.check_mode or not timeout:
            return
        container = {"name": "kserve-container", "image": "nvcr.io/gpuops.nim/probe"}
        probe = {
            "apiVersion": manifests.API_VERSION,
            "kind": manifests.KIND,
            "metadata": {"name": "gpuops-nim-probe", "namespace": kserve_release.NAMESPACE},
            "spec": {"predictor": {"containers": [container]}},
        }
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.client.create(probe, dry_run=True)
            except (AdmissionDenied, Invalid):
                return  # it has answered
            except (Unreachable, KindMissing, NotFound) as error:
                if time.monotonic() >= deadline:
                    raise OpsError(
                        f"KServe's webhook does not answer after {timeout} s (wait_timeout): {error}"
                    ) from None
                time.sleep(0.5)
            else:
                return

    def _remove_services(self, there: list[str], timeout: float) -> None:
        """While the controller still runs: it has to end what it made."""
        objects = []
        for service in there:
            namespace, _slash, name = service.partition("/")
            objects.append(
                {
                    "apiVersion": manifests.API_VERSION,
                    "kind": manifests.KIND,
                    "metadata": {"name": name, "namespace": namespace},
                }
            )
        if objects:
            self._remove_others(objects, timeout)

    def _remove_others(self, objects: list[Object], timeout: float) -> None:
        """What others made for what is removed."""
        told = Batch(self.client, check_mode=self.batch.check_mode, diff=False, progress=lambda line: None, adopt=True)
        told.remove(objects)
        self.batch.changes += told.changes
        told.wait_gone(objects, timeout)


def _read(path: str) -> list[Object]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            texts = kserve_release.texts(file.read())
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in plain Python it takes ten times as long
        documents = [yaml.load(text, Loader=loader) for text in texts]
    except OSError as error:
        raise OpsError(f"manifests: {path} can't be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OpsError(f"manifests: {path} is no YAML: {error}") from None
    objects = [each for each in documents if each]
    if not all(isinstance(each, dict) and each.get("kind") and each.get("metadata") for each in objects):
        raise OpsError(f"manifests: {path} does not hold Kubernetes objects.")
    return objects
