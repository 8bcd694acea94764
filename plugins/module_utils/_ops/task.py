# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""One task on one or many services: what its states (present, stopped, absent) have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KindMissing, KubeError, Unreachable
from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_config, manifests, states
from ansible_collections.gpuops.nim.plugins.module_utils._nim.extras import Kind
from ansible_collections.gpuops.nim.plugins.module_utils._nim.spec import ServiceSpec
from ansible_collections.gpuops.nim.plugins.module_utils._ops import arena, extras
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import Entry
from ansible_collections.gpuops.nim.plugins.module_utils._ops.wait import Outcome, Target, wait_until_gone

Object = dict[str, Any]


class NotInstalled(OpsError):
    """There is no KServe: nothing can be done for any service."""

    def __init__(self) -> None:
        super().__init__(
            "KServe is not installed on this cluster: it does not know the kind InferenceService. "
            "Install KServe first (https://kserve.github.io/website/), in the Standard deployment mode; "
            "on Alibaba Cloud it is the component ack-kserve."
        )


@dataclass
class Service:
    """One service and what has been done and found out about it. ``wanted`` is ``None`` when it is to go."""

    entry: Entry
    namespace: str
    name: str
    wanted: ServiceSpec | None = None
    extras: Mapping[Kind, Object] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    isvc: Object | None = None  # as the server answered the write
    isvc_action: str = ""
    strategy: str = ""
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
            "model": (self.wanted.model or None) if self.wanted else None,
            **self.reach,
            "update_strategy": self.strategy or None,
            "phases": dict(status.phases) if status else {},
            "waited": self.outcome.waited if self.outcome else 0.0,
            "findings": [asdict(finding) for finding in self.outcome.findings] if self.outcome else [],
            "error": self.error,
        }


S = TypeVar("S", bound=Service)


def by_namespace(services: Iterable[S]) -> dict[str, list[S]]:
    """The services in their order, grouped."""
    groups: dict[str, list[S]] = {}
    for service in services:
        groups.setdefault(service.namespace, []).append(service)
    return groups


class Task:
    """Requests for a namespace as a whole are made once for all its services."""

    def __init__(
        self, params: Mapping[str, Any], services: Sequence[Service], check_mode: bool, diff: bool, progress: Progress
    ) -> None:
        self.params = params
        self.services = services
        self.check_mode = check_mode
        self.diff = diff
        self.progress = progress
        self.changes: list[Change] = []  # of objects that belong to no single service
        self.warnings: list[str] = []

    def run(self) -> Result:
        """Do it for all services. Raises what `kserve.run` does."""
        raise NotImplementedError

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

    def live(self, namespace: str) -> dict[str, Object]:
        """The InferenceServices of a namespace by name.

        :raises NotInstalled: there is no KServe.
        """
        try:
            found = self.client.list(manifests.API_VERSION, manifests.KIND, namespace).items
        except KindMissing:
            raise NotInstalled from None
        return {isvc["metadata"]["name"]: isvc for isvc in found}

    def controller_image(self) -> str:
        """The old words are in the ConfigMap of newer releases too; the controller's image tells them apart."""
        found = self.client.get("apps/v1", "Deployment", "kserve-controller-manager", self.params["kserve_namespace"])
        containers = found["spec"]["template"]["spec"]["containers"] if found else []
        return str(next((c["image"] for c in containers if c["name"] == "manager"), ""))

    def remove_extras(self, service: Service, there: extras.Owners) -> None:
        extras.remove(
            self.client,
            service.namespace,
            service.name,
            there,
            service.note,
            wanted=service.extras,
            check_mode=self.check_mode,
        )

    def tidy_after_arena(self, service: Service) -> None:
        left = arena.tidy(
            self.client, service.namespace, service.name, service.extras.keys(), check_mode=self.check_mode
        )
        for change in left:
            service.note(change)

    def wait_for_end(self, services: Sequence[Service], *, stopped: bool = False) -> None:
        """Wait until the services are gone, or with ``stopped`` their pods; who is late gets an error."""
        if not services or not self.params["wait"] or self.check_mode:
            return
        targets, timeout = [Target(each.namespace, each.name) for each in services], self.params["wait_timeout"]
        left = wait_until_gone(self.client, targets, timeout=timeout, progress=self.progress, stopped=stopped)
        for service in services:
            rest = left.get((service.namespace, service.name))
            if rest:
                word = "stopped" if stopped else "gone"
                service.error = f"not {word} after {timeout} s (wait_timeout): {rest}"
            elif stopped:
                service.outcome = Outcome(states.Status("stopped", "stopped on request"))

    def finish(self) -> Result:
        failed = [service for service in self.services if service.error]
        if not failed:
            return Result(self._changed, self._data, self._diff, self._all_warnings)
        head = f"{len(failed)} of {len(self.services)} services failed.\n" if len(self.services) > 1 else ""
        raise self.failure(head + "\n".join(f"[{service}] {service.error}" for service in failed))

    def explained(self, error: KubeError | OpsError) -> str:
        if isinstance(error, Unreachable) and "kserve" in error.webhook:
            namespace = self.params["kserve_namespace"]
            return f"KServe's controller is down; look at it: kubectl get pods --namespace {namespace}. {error}"
        return str(error)

    def lost(self, error: KubeError) -> None:
        """The way to the cluster is gone. Raises OpsError if that ended a run that has changed something."""
        if self._changed:
            raise self.failure(str(error)) from None

    def failure(self, message: str) -> OpsError:
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


def webhook_down(error: KubeError) -> bool:
    """An admission webhook that is down fails this object; the API server itself answers."""
    return isinstance(error, Unreachable) and bool(error.webhook)
