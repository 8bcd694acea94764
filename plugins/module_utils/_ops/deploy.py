# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Bring services up, and wait until they are."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import ensure, ensure_annotation
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    AdmissionDenied,
    Forbidden,
    KindMissing,
    KubeError,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras as nim_extras
from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_config, manifests, names
from ansible_collections.gpuops.nim.plugins.module_utils._ops import claims, clash, extras, reach, strategy
from ansible_collections.gpuops.nim.plugins.module_utils._ops.namespace import ensure_namespace
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import (
    NotInstalled,
    Service,
    Task,
    by_namespace,
    webhook_down,
)
from ansible_collections.gpuops.nim.plugins.module_utils._ops.wait import Outcome, Target, look, wait_until_ready

Object = dict[str, Any]

WRITERS = 8  # services that are written at a time: over a slow line the way there and back is what takes long


class Deploy(Task):
    _one_at_a_time = threading.Lock()

    def run(self) -> Result:
        for service in self.services:
            service.warnings += service.spec.warnings
        for namespace, services in by_namespace(self.services).items():
            self._deploy_namespace(namespace, services)
        alive = [service for service in self.services if not service.error]
        if alive:
            self._watch(alive)
            reach.fill_in(self, alive)
        return self.finish()

    def _deploy_namespace(self, namespace: str, services: Sequence[Service]) -> None:
        taken: clash.Taken = {}
        try:
            live = self.live(namespace)
            if any(service.name not in live for service in services):
                create = any(service.entry.params["create_namespace"] for service in services)
                made = ensure_namespace(self.client, namespace, create=create, check_mode=self.check_mode)
                if made:
                    self.changes.append(made)
                    self.warnings += made.warnings
                else:
                    taken = clash.taken(self.client, namespace)
            found = claims.of_namespace(self, namespace, services)
            unwanted = extras.unwanted(service.spec for service in services) if live else ()
            there = extras.owners(self.client, namespace, unwanted)
        except (Unreachable, Unauthorized, NotInstalled):
            raise
        except (KubeError, OpsError) as error:
            for service in services:
                service.error = self.explained(error)
            return

        def bring(service: Service) -> None:
            try:
                if service.name not in live and not service.entry.params["adopt"]:
                    clash.refuse(taken, service.name)
                self._deploy(service, live.get(service.name), found, there)
            except KindMissing:
                raise NotInstalled from None
            except (KubeError, OpsError) as error:
                service.error = self.explained(error)
                self.progress(f"[{service}] {service.error}")
                if isinstance(error, (Unreachable, Unauthorized)) and not webhook_down(error):
                    raise self.failure(str(error)) from None

        bring(services[0])  # alone: what it has to ask is then known, and without an API server it is the only one
        if len(services) > 1:
            pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="deploy")
            try:
                list(pool.map(bring, services[1:]))
            finally:  # one that meets no API server ends the task, but not in the middle of another one's writes
                pool.shutdown(cancel_futures=True)

    def _deploy(
        self,
        service: Service,
        live: Object | None,
        found: dict[str, Object] | None,
        there: extras.Owners,
    ) -> None:
        wanted, adopt = service.spec, service.entry.params["adopt"]
        mode = self._mode(service, live)
        service.extras = nim_extras.of(wanted, self.kserve.ingress_class if wanted.endpoint_host else "")
        self._tls_secret(service)
        with self._one_at_a_time:  # services may share a claim
            claims.make(self, service, found)
        self._make_extras(service, before=True)
        try:
            self._isvc(service, mode, live, found or {})
        except AdmissionDenied as error:
            remedy = kserve_config.remedy(error.message, mode, live)
            raise OpsError(f"{error.message}. {remedy}") if remedy else error from None
        self._make_extras(service, before=False)
        self.remove_extras(service, there)
        if live and wanted.labels.get(names.VISIBILITY_LABEL) == "cluster-local":
            self._warn_of_ingress(service)
        if adopt:
            self.tidy_after_arena(service)

    def _isvc(self, service: Service, mode: str, live: Object | None, found: Mapping[str, Object]) -> None:
        """Write the InferenceService, and start it if it was stopped."""
        adopt, why = service.entry.params["adopt"], ""
        auto = service.spec.update_strategy == "auto"
        service.strategy = strategy.kept(live) if auto else service.spec.update_strategy
        wanted = manifests.inference_service(service.spec, mode, service.strategy)
        # what is as it should be keeps its strategy, so that a GPU that comes free is no change
        planned = ensure(self.client, wanted, check_mode=True, adopt=adopt, live=live) if auto and live else None
        if planned and planned.changed:
            with self._one_at_a_time:  # the room for one is not the next one's
                service.strategy, why = self._chooser.choose(wanted, found)
            wanted = manifests.inference_service(service.spec, mode, service.strategy)
        if planned and not planned.changed:
            change = service.note(planned)
        else:
            change = service.note(ensure(self.client, wanted, check_mode=self.check_mode, adopt=adopt, live=live))
        service.isvc_action, service.isvc = change.action, change.after or change.before
        if change.changed:
            self.progress(f"[{service}] {change.action}" + (f", {service.strategy}: {why}" if why else ""))
        if live and service.isvc and names.STOP_ANNOTATION in (service.isvc["metadata"].get("annotations") or {}):
            key = names.STOP_ANNOTATION
            started = service.note(
                ensure_annotation(self.client, service.isvc, key, None, check_mode=self.check_mode, adopt=adopt)
            )
            service.isvc = started.after
            self.progress(f"[{service}] started")

    @cached_property
    def _chooser(self) -> strategy.Chooser:
        return strategy.Chooser(self.client)

    def _make_extras(self, service: Service, before: bool) -> None:
        service.warnings += extras.make(
            self.client,
            service.spec,
            service.extras,
            service.note,
            before=before,
            check_mode=self.check_mode,
            adopt=service.entry.params["adopt"],
        )

    def _mode(self, service: Service, live: Object | None) -> str:
        """The word for the deployment mode. A live service keeps its own: KServe refuses to change it."""
        asked = str(service.entry.params["deployment_mode"])
        current = kserve_config.live_mode(live, names.MODE_ANNOTATION) if live else ""
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
            image = self.controller_image() if config.old_words else ""
        except (Forbidden, OpsError) as error:
            raise OpsError(f"{error.message} Or set deployment_mode, so that it need not be read.") from None
        return kserve_config.word_for(config, image)

    def _tls_secret(self, service: Service) -> None:
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

    def _warn_of_ingress(self, service: Service) -> None:
        """KServe makes no Ingress for a service of the cluster alone, but leaves one that it made before."""
        try:
            left = self.client.get(nim_extras.ENDPOINT.api_version, "Ingress", service.name, service.namespace)
        except Forbidden:
            return
        if left:
            service.warnings.append(
                f"[{service}] labels: KServe made the Ingress {service.name} before the service became cluster-local "
                "and leaves it, so it still lets everyone in by plain HTTP. Remove it: "
                f"`kubectl delete ingress --namespace {service.namespace} {service.name}`."
            )

    def _watch(self, services: Sequence[Service]) -> None:
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

    def _ignored(self, services: Sequence[Service]) -> frozenset[str]:
        """Keys that this KServe keeps out of pods; only of interest to services with labels or annotations."""
        if not any(service.spec.labels or service.spec.annotations for service in services):
            return frozenset()
        try:
            return self.kserve.not_propagated
        except (Forbidden, OpsError):
            return frozenset()
