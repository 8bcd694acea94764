# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Deploy NIM services behind KServe, or take them away."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlsplit

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import MANAGED_BY, Change, ensure, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    Forbidden,
    KindMissing,
    KubeError,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim import (
    contract,
    kserve_config,
    manifests,
    quantity,
    spec,
    states,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim.spec import ServiceSpec
from ansible_collections.gpuops.nim.plugins.module_utils._ops.namespace import ensure_namespace
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import BadEntry, Entry, read_all
from ansible_collections.gpuops.nim.plugins.module_utils._ops.wait import (
    Outcome,
    Target,
    look,
    wait_until_gone,
    wait_until_ready,
)

Object = dict[str, Any]
NOT_INSTALLED = (
    "KServe is not installed on this cluster: it does not know the kind InferenceService. "
    "Install KServe first (https://kserve.github.io/website/), in the Standard deployment mode; "
    "on Alibaba Cloud it is the component ack-kserve."
)
# The bodies of the curl line, one for each way to ask.
_USAGE: dict[str, tuple[str, Callable[[str], Object]]] = {
    "chat": (
        "/v1/chat/completions",
        lambda model: {"model": model, "messages": [{"role": "user", "content": "What is a GPU?"}], "max_tokens": 64},
    ),
    "embeddings": (
        "/v1/embeddings",
        lambda model: {"model": model, "input": ["What is a GPU?"], "input_type": "query"},
    ),
    "ranking": (
        "/v1/ranking",
        lambda model: {"model": model, "query": {"text": "A GPU?"}, "passages": [{"text": "A graphics processor."}]},
    ),
}


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Bring the services of a task up or take them away; one that fails does not stop the others.

    :raises OpsError: bad options (nothing was sent), or at the end all that failed; ``data`` tells of every service.
    :raises KubeError: there is no way to the cluster.
    """
    if params["state"] == "absent":
        leaving = [_Service(entry, namespace, name) for entry, (namespace, name) in read_all(params, _identity)]
        return _Run(params, leaving, check_mode, diff, progress).absent()
    coming = [_Service(entry, wanted.namespace, wanted.name, wanted) for entry, wanted in read_all(params, _spec)]
    return _Run(params, coming, check_mode, diff, progress).present()


def _spec(params: Mapping[str, Any]) -> ServiceSpec:
    try:
        return spec.read(params)
    except spec.BadSpec as error:
        raise BadEntry(list(error.errors)) from None


def _identity(params: Mapping[str, Any]) -> tuple[str, str]:
    try:
        return spec.identity(params)
    except spec.BadSpec as error:
        raise BadEntry(list(error.errors)) from None


@dataclass
class _Service:
    """One service and what has been done and found out about it. ``wanted`` is ``None`` when it is to go."""

    entry: Entry
    namespace: str
    name: str
    wanted: ServiceSpec | None = None
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    isvc: Object | None = None  # as the server answered the write
    isvc_action: str = ""
    error: str = ""
    outcome: Outcome | None = None
    reach: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> ServiceSpec:
        return cast(ServiceSpec, self.wanted)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def action(self) -> str:
        if self.isvc_action == "unchanged" and any(change.changed for change in self.changes):
            return "changed"
        if self.isvc_action == "unchanged" and self.outcome and self.outcome.restarted:
            return "restarted"
        return self.isvc_action

    def note(self, change: Change) -> Change:
        self.changes.append(change)
        self.warnings += change.warnings
        return change

    def data(self) -> Object:
        status = self.outcome.status if self.outcome else None
        return {
            "name": self.name,
            "namespace": self.namespace,
            "action": self.action,
            "state": status.state if status else "",
            "url": None,
            "address": None,
            "host": None,
            "curl": None,
            "model": self.wanted.model if self.wanted else None,
            **self.reach,
            "phases": dict(status.phases) if status else {},
            "waited": self.outcome.waited if self.outcome else 0.0,
            "findings": [asdict(finding) for finding in self.outcome.findings] if self.outcome else [],
            "error": self.error,
        }


class _Run:
    """One task. Requests for a namespace as a whole are made once for all its services."""

    def __init__(
        self, params: Mapping[str, Any], services: Sequence[_Service], check_mode: bool, diff: bool, progress: Progress
    ) -> None:
        self.params = params
        self.services = services
        self.check_mode = check_mode
        self.diff = diff
        self.progress = progress
        self.changes: list[Change] = []  # of objects that belong to no single service
        self.warnings: list[str] = []

    @cached_property
    def client(self) -> Client:
        return connect(self.params)

    @cached_property
    def kserve(self) -> kserve_config.KServeConfig:
        """What KServe's ConfigMap says; read only when something depends on it."""
        namespace = self.params["kserve_namespace"]
        found = self.client.get("v1", "ConfigMap", kserve_config.NAME, namespace)
        if found is None:
            raise OpsError(
                f"kserve_namespace: there is no ConfigMap {kserve_config.NAME} in namespace {namespace}. "
                "Name the namespace of KServe's controller."
            )
        return kserve_config.parse(found)

    # -- present

    def present(self) -> Result:
        for service in self.services:
            service.warnings += service.spec.warnings
        for namespace in dict.fromkeys(service.namespace for service in self.services):
            self._deploy_namespace(namespace, [service for service in self.services if service.namespace == namespace])
        alive = [service for service in self.services if not service.error]
        if alive:
            self._watch(alive)
            self._reach(alive)
        return self._finish()

    def _deploy_namespace(self, namespace: str, services: Sequence[_Service]) -> None:
        try:
            live = {
                isvc["metadata"]["name"]: isvc
                for isvc in self.client.list(manifests.API_VERSION, manifests.KIND, namespace).items
            }
            if any(service.name not in live for service in services):
                create = any(service.entry.params["create_namespace"] for service in services)
                made = ensure_namespace(self.client, namespace, create=create, check_mode=self.check_mode)
                if made:
                    self.changes.append(made)
                    self.warnings += made.warnings
            claims = self._claims(namespace, services)
            metrics: frozenset[str] = frozenset()
            endpoints: frozenset[str] = frozenset()
            if live and not all(service.spec.enable_prometheus for service in services):
                metrics = self._with_metrics(namespace)
            if live and not all(service.spec.endpoint_host for service in services):
                endpoints = self._with_endpoint(namespace)
        except KindMissing:
            raise OpsError(NOT_INSTALLED) from None
        except (Unreachable, Unauthorized):
            raise
        except (KubeError, OpsError) as error:
            for service in services:
                service.error = str(error)
            return
        for service in services:
            try:
                self._deploy(
                    service, live.get(service.name), claims, service.name in metrics, service.name in endpoints
                )
            except KindMissing:
                raise OpsError(NOT_INSTALLED) from None
            except (KubeError, OpsError) as error:
                service.error = str(error)
                self.progress(f"[{service}] {error}")
                if isinstance(error, (Unreachable, Unauthorized)) and not _webhook(error):
                    raise self._failure(str(error)) from None

    def _deploy(
        self,
        service: _Service,
        live: Object | None,
        claims: dict[str, Object] | None,
        has_metrics: bool,
        has_endpoint: bool,
    ) -> None:
        wanted, adopt = service.spec, service.entry.params["adopt"]
        mode = self._mode(service, live)
        endpoint = manifests.endpoint(wanted, self.kserve.ingress_class) if wanted.endpoint_host else None
        self._tls_secret(service)
        self._claim(service, claims)
        change = service.note(
            ensure(self.client, manifests.inference_service(wanted, mode), check_mode=self.check_mode, adopt=adopt)
        )
        service.isvc_action, service.isvc = change.action, change.after or change.before
        if change.changed:
            self.progress(f"[{service}] {change.action}")
        if endpoint:
            service.note(ensure(self.client, endpoint, check_mode=self.check_mode, adopt=adopt))
        elif has_endpoint:
            self._remove_endpoint(service)
        if live and wanted.labels.get(spec.VISIBILITY_LABEL) == "cluster-local":
            self._warn_of_ingress(service)
        if wanted.enable_prometheus:
            service.note(
                ensure(self.client, manifests.metrics_service(wanted), check_mode=self.check_mode, adopt=adopt)
            )
            try:
                service.note(
                    ensure(self.client, manifests.service_monitor(wanted), check_mode=self.check_mode, adopt=adopt)
                )
            except KindMissing:
                service.warnings.append(
                    f"[{service}] enable_prometheus: the cluster has no ServiceMonitor (the Prometheus "
                    "operator is not installed), so nothing "
                    f"scrapes Service {manifests.metrics_name(wanted.name)} by itself; point Prometheus "
                    f"at it, path {wanted.contract.metrics_path}"
                )
        elif has_metrics:
            self._remove_metrics(service)

    def _mode(self, service: _Service, live: Object | None) -> str:
        """The word for the deployment mode. A live service keeps its own: KServe refuses to change it."""
        asked = str(service.entry.params["deployment_mode"])
        current = kserve_config.live_mode(live, spec.MODE_ANNOTATION) if live else ""
        if current in kserve_config.STANDARD:
            return current
        if current:
            raise OpsError(
                f"InferenceService {service} runs in the mode {current}, which KServe can't change. "
                "Remove it first (state: absent keeps the cache), then deploy it again."
            )
        if asked != "auto":
            return asked
        return self._cluster_word

    @cached_property
    def _cluster_word(self) -> str:
        try:
            config = self.kserve
            image = self._controller_image() if config.old_words else ""
        except (Forbidden, OpsError) as error:
            raise OpsError(f"{error.message} Or set deployment_mode, so that it need not be read.") from None
        return kserve_config.word_for(config, image)

    def _controller_image(self) -> str:
        """The old words are in the ConfigMap of some newer releases too; the controller's image tells them apart."""
        found = self.client.get("apps/v1", "Deployment", "kserve-controller-manager", self.params["kserve_namespace"])
        containers = found["spec"]["template"]["spec"]["containers"] if found else []
        return str(next((c["image"] for c in containers if c["name"] == "manager"), ""))

    # -- the claim, the endpoint and the metrics objects

    def _tls_secret(self, service: _Service) -> None:
        """Without it an ingress shows a certificate of its own, or none: so look before anything is written."""
        name, namespace = service.spec.tls_secret, service.namespace
        if name is None:
            return
        try:
            found = self.client.get("v1", "Secret", name, namespace)
        except Forbidden as error:
            service.warnings.append(f"[{service}] tls_secret: {name} is not checked. {error.message}")
            return
        lacking = [key for key in ("tls.crt", "tls.key") if not ((found or {}).get("data") or {}).get(key)]
        if found is None:
            wrong = f"there is no Secret {name} in namespace {namespace}"
        elif found.get("type") != "kubernetes.io/tls":
            wrong = f"Secret {namespace}/{name} is of type {found.get('type')}, not kubernetes.io/tls"
        elif lacking:
            wrong = f"Secret {namespace}/{name} has no {' and no '.join(lacking)}"
        else:
            return
        text = (
            f"tls_secret: {wrong}. Make it with the certificate for {service.spec.endpoint_host}: "
            f"`kubectl create secret tls {name} --namespace {namespace} --cert=FILE --key=FILE`."
        )
        if found is not None or not self.check_mode:
            raise OpsError(text)
        service.warnings.append(f"[{service}] {text}")  # a task before this one may be what makes it

    def _warn_of_ingress(self, service: _Service) -> None:
        """KServe makes no Ingress for a service of the cluster alone, but leaves one that it made before."""
        try:
            left = self.client.get(manifests.INGRESS_API_VERSION, "Ingress", service.name, service.namespace)
        except Forbidden:
            return
        if left:
            service.warnings.append(
                f"[{service}] labels: KServe made the Ingress {service.name} before the service became cluster-local "
                "and leaves it, so it still lets everyone in by plain HTTP. Remove it: "
                f"`kubectl delete ingress --namespace {service.namespace} {service.name}`."
            )

    def _with_endpoint(self, namespace: str) -> frozenset[str]:
        try:
            return self._with(manifests.INGRESS_API_VERSION, "Ingress", namespace)
        except Forbidden:  # most services never have one; they should not need the right
            return frozenset()

    def _remove_endpoint(self, service: _Service) -> None:
        name, version = manifests.endpoint_name(service.name), manifests.INGRESS_API_VERSION
        service.note(
            ensure_absent(self.client, version, "Ingress", name, service.namespace, check_mode=self.check_mode)
        )

    def _claims(self, namespace: str, services: Sequence[_Service]) -> dict[str, Object] | None:
        """The namespace's claims by name, read once; ``None`` where nobody asks or they can't be read."""
        if not any(service.spec.cache for service in services):
            return None
        try:
            return {
                claim["metadata"]["name"]: claim
                for claim in self.client.list("v1", "PersistentVolumeClaim", namespace).items
            }
        except Forbidden:
            if any(service.spec.cache and service.spec.cache.size for service in services):
                raise
            return None

    def _claim(self, service: _Service, claims: dict[str, Object] | None) -> None:
        cache = service.spec.cache
        if cache is None or claims is None:
            return
        live = claims.get(cache.claim)
        if live is not None:
            asked = (live["spec"].get("resources") or {}).get("requests", {}).get("storage", "0")
            if cache.size and quantity.parse(cache.size) > quantity.parse(asked):
                service.warnings.append(
                    f"[{service}] cache.size: claim {cache.claim} exists with {asked} and is left as it "
                    f"is; {cache.size} was asked for"
                )
        elif cache.size:
            change = service.note(ensure(self.client, manifests.claim(service.spec), check_mode=self.check_mode))
            claims[cache.claim] = change.after or {
                "metadata": {"name": cache.claim},
                "spec": {"resources": {"requests": {"storage": cache.size}}},
            }
        elif self.check_mode:
            service.warnings.append(
                f"[{service}] cache.claim: there is no claim {cache.claim} in namespace {service.namespace} yet"
            )
        else:
            raise OpsError(
                f"cache.claim: there is no claim {cache.claim} in namespace {service.namespace}. Make "
                "it, or set cache.size to have it made."
            )

    def _with_metrics(self, namespace: str) -> frozenset[str]:
        """By their metrics Service: it is made first and removed last, so no ServiceMonitor is without."""
        return self._with("v1", "Service", namespace)

    def _with(self, api_version: str, kind: str, namespace: str) -> frozenset[str]:
        """The services that have an extra object of this kind from us."""
        found = self.client.list(api_version, kind, namespace, labels=manifests.SERVICE_LABEL, metadata_only=True).items
        return frozenset(obj["metadata"]["labels"][manifests.SERVICE_LABEL] for obj in found)

    def _remove_metrics(self, service: _Service) -> None:
        for version, kind, name in (
            (manifests.MONITOR_API_VERSION, "ServiceMonitor", manifests.monitor_name(service.name)),
            ("v1", "Service", manifests.metrics_name(service.name)),
        ):
            service.note(ensure_absent(self.client, version, kind, name, service.namespace, check_mode=self.check_mode))

    # -- waiting and reporting

    def _watch(self, services: Sequence[_Service]) -> None:
        targets = [
            Target(
                service.namespace,
                service.name,
                None if self.check_mode else service.isvc,
                settled=service.isvc_action == "unchanged",
            )
            for service in services
        ]
        ignored = self._ignored(services)
        outcomes: dict[tuple[str, str], Outcome] = {}
        waits = self.params["wait"] and not self.check_mode
        # most re-runs find all of them ready: one look, no watch
        if not waits or all(target.settled for target in targets):
            outcomes = look(self.client, targets, ignored)
        if waits:
            left = [target for target in targets if target.key not in outcomes or not outcomes[target.key].status.ready]
            if left:
                outcomes.update(
                    wait_until_ready(
                        self.client,
                        left,
                        timeout=self.params["wait_timeout"],
                        progress=self.progress,
                        grace=self.params["unschedulable_grace"],
                        ignored=ignored,
                    )
                )
        for service in services:
            service.outcome = outcomes[(service.namespace, service.name)]
            service.error = service.outcome.error

    def _ignored(self, services: Sequence[_Service]) -> frozenset[str]:
        """Keys that this KServe keeps out of pods; only of interest to services with labels or annotations."""
        if not any(service.spec.labels or service.spec.annotations for service in services):
            return frozenset()
        try:
            return self.kserve.not_propagated
        except (Forbidden, OpsError):
            return frozenset()

    def _reach(self, services: Sequence[_Service]) -> None:
        """Fill in how to reach the services: from their status, the options, and the Ingress where neither says it."""
        addresses: dict[str, dict[str, str]] = {}
        for namespace in dict.fromkeys(service.namespace for service in services):
            mine = [service for service in services if service.namespace == namespace]
            isvcs: dict[str, Object] = {}
            if (
                any(not (s.spec.endpoint or ((s.isvc or {}).get("status") or {}).get("url")) for s in mine)
                and not self.check_mode
            ):
                isvcs = {
                    o["metadata"]["name"]: o
                    for o in self.client.list(manifests.API_VERSION, manifests.KIND, namespace).items
                }
            for service in mine:
                status = (isvcs.get(service.name) or service.isvc or {}).get("status") or {}
                url = service.spec.endpoint or str(status.get("url") or "")
                inside = "" if service.spec.endpoint else str((status.get("address") or {}).get("url") or "")
                local = not url or (urlsplit(url).hostname or "").endswith(".svc.cluster.local")
                given = address = str(service.entry.params["ingress_address"] or "")
                if not address and not local:
                    if namespace not in addresses:
                        addresses[namespace] = self._ingresses(namespace)
                    ours = service.spec.endpoint_host is not None
                    ingress = manifests.endpoint_name(service.name) if ours else service.name
                    address = addresses[namespace].get(ingress, "")
                service.reach = _reach(service.spec, url, inside, "" if local else address, bool(given))

    def _ingresses(self, namespace: str) -> dict[str, str]:
        try:
            found = self.client.list(manifests.INGRESS_API_VERSION, "Ingress", namespace).items
        except KubeError:  # the address is a convenience; its absence must not fail a deployment
            return {}
        return {ingress["metadata"]["name"]: states.ingress_address(ingress) for ingress in found}

    # -- absent

    def absent(self) -> Result:
        for namespace in dict.fromkeys(service.namespace for service in self.services):
            mine = [service for service in self.services if service.namespace == namespace]
            try:
                metrics, endpoints = self._with_metrics(namespace), self._with_endpoint(namespace)
            except (Unreachable, Unauthorized):
                raise
            except KubeError as error:
                for service in mine:
                    service.error = str(error)
                continue
            for service in mine:
                try:
                    self._remove(service, service.name in metrics, service.name in endpoints)
                except KubeError as error:
                    service.error = str(error)
                    if isinstance(error, (Unreachable, Unauthorized)) and not _webhook(error):
                        raise self._failure(str(error)) from None
        going = [service for service in self.services if not service.error and service.isvc]
        if going and self.params["wait"] and not self.check_mode:
            targets = [Target(service.namespace, service.name) for service in going]
            left = wait_until_gone(self.client, targets, timeout=self.params["wait_timeout"], progress=self.progress)
            for service in going:
                rest = left.get((service.namespace, service.name))
                if rest:
                    service.error = f"not gone after {self.params['wait_timeout']} s (wait_timeout): {rest}"
        for service in self.services:
            if not service.entry.params["keep_cache"] and not service.error:
                try:
                    self._remove_claims(service)
                except KubeError as error:
                    service.error = str(error)
        return self._finish()

    def _remove(self, service: _Service, has_metrics: bool, has_endpoint: bool) -> None:
        adopt = service.entry.params["adopt"]
        change = service.note(
            ensure_absent(
                self.client,
                manifests.API_VERSION,
                manifests.KIND,
                service.name,
                service.namespace,
                check_mode=self.check_mode,
                adopt=adopt,
            )
        )
        service.isvc_action, service.isvc = change.action, change.before
        if change.changed:
            self.progress(f"[{service}] {change.action}")
        if has_endpoint:
            self._remove_endpoint(service)
        if has_metrics:
            self._remove_metrics(service)

    def _remove_claims(self, service: _Service) -> None:
        """Delete the claims that were made for this service and that no other service uses."""
        ours = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
        claims = self.client.list(
            "v1", "PersistentVolumeClaim", service.namespace, labels=ours, metadata_only=True
        ).items
        named = (service.entry.params["cache"] or {}).get("claim")
        mine = [
            claim["metadata"]["name"]
            for claim in claims
            if claim["metadata"]["name"] == named
            or claim["metadata"]["labels"].get(manifests.SERVICE_LABEL) == service.name
        ]
        if not mine:
            return
        try:
            others = self.client.list(manifests.API_VERSION, manifests.KIND, service.namespace).items
        except KindMissing:
            others = []
        users = {
            volume["persistentVolumeClaim"]["claimName"]: isvc["metadata"]["name"]
            for isvc in others
            if isvc["metadata"]["name"] != service.name
            for volume in isvc["spec"]["predictor"].get("volumes") or ()
            if "persistentVolumeClaim" in volume
        }
        for name in mine:
            if name in users:
                service.warnings.append(f"[{service}] claim {name} is kept: service {users[name]} uses it")
            else:
                service.note(
                    ensure_absent(
                        self.client, "v1", "PersistentVolumeClaim", name, service.namespace, check_mode=self.check_mode
                    )
                )

    # -- the end

    def _finish(self) -> Result:
        failed = [service for service in self.services if service.error]
        if not failed:
            return Result(self._changed, self._data, self._diff, self._all_warnings)
        head = f"{len(failed)} of {len(self.services)} services failed.\n" if len(self.services) > 1 else ""
        raise self._failure(head + "\n".join(f"[{service}] {service.error}" for service in failed))

    def _failure(self, message: str) -> OpsError:
        return OpsError(message, data=self._data, changed=self._changed, diff=self._diff, warnings=self._all_warnings)

    @property
    def _all_changes(self) -> list[Change]:
        return [*self.changes, *(change for service in self.services for change in service.changes)]

    @property
    def _changed(self) -> bool:
        restarted = any(service.outcome and service.outcome.restarted for service in self.services)
        return restarted or any(change.changed for change in self._all_changes)

    @property
    def _data(self) -> Object:
        return {"services": [service.data() for service in self.services]}

    @property
    def _diff(self) -> list[Object]:
        return [change.diff for change in self._all_changes if change.changed] if self.diff else []

    @property
    def _all_warnings(self) -> list[str]:
        return [*self.warnings, *(warning for service in self.services for warning in service.warnings)]


def _webhook(error: KubeError) -> bool:
    """An admission webhook that is down fails this object; the API server itself answers."""
    return isinstance(error, Unreachable) and "webhook" in error.message


def _reach(wanted: ServiceSpec, url: str, inside: str, address: str, given: bool) -> dict[str, Any]:
    """Return url, address, host and the curl line of the usage page; an empty status gives only what is known.

    ``given``: the address is the user's word, so a name that doesn't lead there must not matter.
    """
    host = urlsplit(url).netloc
    base, option = inside or url, ""
    if address:
        door = urlsplit(address if "://" in address else f"{urlsplit(url).scheme or 'http'}://{address}")
        base = door.geturl().rstrip("/")
        if door.scheme == "https" and host:  # the certificate is for the name, so that stays in the URL
            url = base = f"https://{host}" + (f":{door.port}" if door.port not in (None, 443) else "")
            option = f" --connect-to ::{door.netloc}" if given else ""
        elif host:
            option = f" -H 'Host: {host}'"
    path, body = _USAGE[contract.api_of(wanted.image)]
    data = json.dumps(body(wanted.model))
    curl = f"curl -s {base}{path}{option} -H 'Content-Type: application/json' -d '{data}'" if base else None
    return {"url": url or None, "address": address or None, "host": host or None, "curl": curl}
