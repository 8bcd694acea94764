# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""One look at services that are there, whoever made them: state, timeline, and what is wrong with them.

Nothing is changed. A namespace, or a whole cluster, costs the same few requests whatever the number of its services;
only where something is wrong is there more to ask.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import is_ours
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Group, Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim import (
    findings,
    kserve_config,
    manifests,
    nimservice,
    recognise,
    states,
    timeline,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim.options.check import DNS_LABEL
from ansible_collections.gpuops.nim.plugins.module_utils._ops.beside import (
    Beside,
    pod_of,
    secret_query,
    traffic_queries,
    trouble_queries,
)
from ansible_collections.gpuops.nim.plugins.module_utils._ops.managers import managed_by
from ansible_collections.gpuops.nim.plugins.module_utils._ops.pull_key import WAY_ARGUMENTS, verdicts
from ansible_collections.gpuops.nim.plugins.module_utils._ops.reader import Reader
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.wait import Scene, Target, belongs_to

Object = dict[str, Any]
Key = tuple[str, str]  # namespace and name

SETTLES = 10.0  # seconds in which nothing moves, after which somebody should have acted
EVENTS_LAST = 3600.0  # seconds that the API server keeps an event, by default: there are none of older pods
MANY_NAMESPACES = 5  # more of them than this are asked for all at once
MANY_LOGS = 10  # of one service's pods: the rest will say the same
LOG_BYTES = "65536"
MANY_NAMES = 50  # more of them than this make a selector too long
WORST = ("none", "warning", "error")
KSERVE_NAMESPACE = "kserve"


@dataclass(frozen=True)
class Inspected:
    """One service. ``state``: a word of `states.STATES`, ``ending``, or ``unknown`` where too little may be read."""

    namespace: str
    name: str
    kind: str
    managed_by: str
    state: str
    detail: str
    image: str = ""
    ready: bool = False
    replicas: Mapping[str, int] = field(default_factory=dict)
    revision: str = ""
    url: str = ""
    address: str = ""
    timeline: tuple[timeline.Row, ...] = ()
    findings: tuple[findings.Finding, ...] = ()
    verdict: Optional[Mapping[str, Any]] = None

    @property
    def worst(self) -> str:
        return max((finding.severity for finding in self.findings), key=WORST.index, default="none")

    def data(self, now: datetime) -> Object:
        return {
            "namespace": self.namespace,
            "name": self.name,
            "kind": self.kind,
            "managed_by": self.managed_by,
            "state": self.state,
            "detail": findings.redact(self.detail),
            "ready": self.ready,
            "image": self.image,
            "replicas": dict(self.replicas),
            "revision": self.revision,
            "url": self.url or None,
            "address": self.address or None,
            "worst": self.worst,
            "verdict": dict(self.verdict) if self.verdict else None,
            "findings": [asdict(finding) for finding in self.findings],
            "timeline": [row.data(now) for row in self.timeline],
        }


@dataclass(frozen=True)
class _Found:
    """A service with all that was read of it."""

    service: Object
    seen: states.Observed
    status: states.Status

    @property
    def key(self) -> Key:
        return self.service["metadata"]["namespace"], self.service["metadata"]["name"]

    @property
    def of_operator(self) -> bool:
        return bool(self.service["kind"] == nimservice.KIND)

    @property
    def quiet(self) -> bool:
        """Nothing hints at trouble: it is up, or stopped on purpose, and no container has ever ended."""
        pods = [pod for pod in self.seen.pods if "deletionTimestamp" not in pod["metadata"]]
        return self.status.state in ("ready", "stopped") and not any(
            container.get("restartCount") or not container.get("ready")
            for pod in pods
            for container in pod.get("status", {}).get("containerStatuses", ())
        )


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """The module.

    :raises OpsError: an option that can't be right.
    :raises KubeError: the cluster can't be asked, or no service at all may be listed.
    """
    namespaces, wanted = _targets(params)
    client = connect(params)
    reader = Reader(client)
    begun = time.monotonic()
    now = reader.now()
    way = {name: params[name] for name in WAY_ARGUMENTS} if params["check_key"] else None
    services = inspect(client, namespaces, wanted, way=way, now=now, reader=reader)
    rows = [service.data(now) for service in services]
    return Result(
        False,
        {
            "services": rows,
            "worst": max((row["worst"] for row in rows), key=WORST.index, default="none"),
            "counts": dict(sorted(Counter(row["state"] for row in rows).items())),
            "not_looked_at": list(reader.denied),
            "looked_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seconds": round(time.monotonic() - begun, 2),
        },
        warnings=_warnings(reader, rows),
    )


def inspect(
    client: Client,
    namespaces: Sequence[str] = (),
    wanted: Collection[Key] = (),
    *,
    logs: bool = True,
    way: Optional[Mapping[str, Any]] = None,
    now: Optional[datetime] = None,
    reader: Optional[Reader] = None,
) -> list[Inspected]:
    """Look once at the NIM services of some namespaces, by namespace and name.

    :param namespaces: empty for all of the cluster.
    :param wanted: only these, as namespace (empty for any) and name. One that isn't there is told as absent.
    :param logs: read the logs of containers that ended, or load for long.
    :param way: options of WAY_ARGUMENTS, to ask for verdicts about the keys that the services pull with.
    :param now: by the API server's clock; asked for if not given.
    :param reader: knows afterwards what may not be read.
    :raises Forbidden: no service may be listed, in no namespace.
    :raises Unreachable: the API server does not answer.
    """
    reader = reader or Reader(client)
    return _Inspection(reader, namespaces, wanted, logs, way, now or reader.now()).services()


def _targets(params: Mapping[str, Any]) -> tuple[list[str], list[Key]]:
    namespaces = [name for name in dict.fromkeys(params["namespaces"] or ()) if name]
    wrong = [
        f"namespaces: {name!r} is not a namespace's name: at most 63 lower-case letters, digits and '-'."
        for name in namespaces
        if not DNS_LABEL.fullmatch(name)
    ]
    wanted = []
    for text in dict.fromkeys(params["services"] or ()):
        namespace, _slash, name = text.rpartition("/")
        if not DNS_LABEL.fullmatch(name) or (namespace and not DNS_LABEL.fullmatch(namespace)):
            wrong.append(f"services: {text!r} is not a service: write NAME or NAMESPACE/NAME.")
        elif namespace and namespaces and namespace not in namespaces:
            wrong.append(f"services: {text!r} is not in one of the namespaces {', '.join(namespaces)}.")
        wanted.append((namespace or (namespaces[0] if len(namespaces) == 1 else ""), name))
    if wrong:
        raise OpsError("\n".join(wrong))
    if wanted and not namespaces and all(namespace for namespace, _name in wanted):
        namespaces = list(dict.fromkeys(namespace for namespace, _name in wanted))
    return namespaces, wanted


def _warnings(reader: Reader, rows: Sequence[Object]) -> list[str]:
    if not rows and {manifests.KIND, nimservice.KIND} <= reader.missing:
        return ["This cluster knows neither KServe's InferenceService nor the NIM Operator's NIMService."]
    return []


class _Inspection:
    def __init__(
        self,
        reader: Reader,
        namespaces: Sequence[str],
        wanted: Collection[Key],
        logs: bool,
        way: Mapping[str, Any] | None,
        now: datetime,
    ) -> None:
        self.reader = reader
        self.way = way
        self.now = now
        self.spaces: list[str | None] = list(namespaces) or [None]
        self.wanted = wanted
        self.logs = logs
        self.beside = Beside(reader)
        self.objects: dict[tuple[str, Group | None], list[Object]] = defaultdict(list)
        self.known: set[str] = set()
        self.verdicts: Mapping[Key, Mapping[str, Any]] = {}
        self.scene = Scene(lambda kind, group=None: self.objects[kind, group])

    def services(self) -> list[Inspected]:
        found = self._find()
        of_operator = any(each.of_operator for each in found)
        spaces = self._spaces_of({each.key[0] for each in found})
        loud = self._spaces_of({each.key[0] for each in found if not each.quiet})
        self.reader.read(
            [
                *(query for space in spaces for query in traffic_queries(space, of_operator=of_operator)),
                *(query for space in loud for query in trouble_queries(space)),
            ]
        )
        self.reader.read((secret_query(space) for space in spaces), metadata_only=True)
        self.verdicts = self._verdicts(found)
        told = [self._inspected(each, found) for each in found]
        return sorted(told + self._absent(found), key=lambda each: (each.namespace, each.name))

    # -- what is there

    def _find(self) -> list[_Found]:
        self._read(
            query
            for space in self.spaces
            for query in (
                Query(manifests.API_VERSION, manifests.KIND, space),
                Query(nimservice.API_VERSION, nimservice.KIND, space),
                Query("apps/v1", "Deployment", space, labels=manifests.ISVC_LABEL),
                Query("apps/v1", "ReplicaSet", space, labels=manifests.ISVC_LABEL),
                Query("v1", "Pod", space, labels=manifests.ISVC_LABEL),
            )
        )
        services = self.objects[manifests.KIND, None] + self.objects[nimservice.KIND, None]
        self._none_at_all(services)
        of_operator = {
            (service["metadata"]["namespace"], service["metadata"]["name"])
            for service in self.objects[nimservice.KIND, None]
        }
        if of_operator:
            self._read_operators(of_operator)
        found = [self._judged(service) for service in services if self._chosen(service, of_operator)]
        loud = {each.key[0] for each in found if not each.quiet or self._young(each)}
        if loud:
            self._read(Query("v1", "Event", space, fields="involvedObject.kind=Pod") for space in self._spaces_of(loud))
            found = [self._judged(each.service) if each.key[0] in loud else each for each in found]
        return found

    def _read(self, queries: Iterable[Query]) -> None:
        queries = list(queries)
        self.reader.read(queries, patient=True)
        for query in queries:
            for obj in self.reader.get(query) or ():
                uid = obj["metadata"].get("uid")
                if uid in self.known:  # two selectors may match it
                    continue
                self.known.add(uid)
                group = self._operators(obj) or belongs_to(obj)
                self.objects[query.kind, None].append(obj)
                self.objects[query.kind, group].append(obj)

    def _none_at_all(self, services: Sequence[Object]) -> None:
        """Without the right to list any service there is nothing to say, and 'all is well' least of all."""
        queries = [Query(manifests.API_VERSION, manifests.KIND, space) for space in self.spaces]
        if not services and all(self.reader.get(query) is None for query in queries):
            where = "the cluster" if self.spaces == [None] else f"namespace {', '.join(map(str, self.spaces))}"
            raise Forbidden(
                f"No InferenceService of {where} may be listed, so nothing can be said. Give this login the right to "
                "list inferenceservices.serving.kserve.io, or name the namespaces that it may see: namespaces.",
                verb="list",
                group="serving.kserve.io",
                resource="inferenceservices",
                namespace=self.spaces[0],
            )

    def _read_operators(self, services: Collection[Key]) -> None:
        names = sorted({name for _namespace, name in services})
        apps = f"{nimservice.APP_LABEL} in ({','.join(names)})" if len(names) <= MANY_NAMES else ""
        self._read(
            query
            for space in self._spaces_of({namespace for namespace, _name in services})
            for query in (
                Query("apps/v1", "Deployment", space, labels=nimservice.MADE_BY_OPERATOR),
                Query("apps/v1", "StatefulSet", space, labels=nimservice.MADE_BY_OPERATOR),
                Query("apps/v1", "ReplicaSet", space, labels=apps or nimservice.APP_LABEL),
                Query("v1", "Pod", space, labels=apps or nimservice.APP_LABEL),
            )
        )

    def _operators(self, obj: Object) -> Group:
        """The NIMService that an object belongs to: by its name, by its controller's name, or by its label."""
        meta = obj["metadata"]
        labels = meta.get("labels") or {}
        if manifests.ISVC_LABEL in labels or obj["kind"] in (manifests.KIND, "Event"):
            return None
        if obj["kind"] in (nimservice.KIND, "Deployment", "StatefulSet"):
            return nimservice.KIND, meta["namespace"], meta["name"]
        return nimservice.KIND, meta["namespace"], str(labels.get(nimservice.APP_LABEL))

    def _spaces_of(self, namespaces: Collection[str]) -> list[str | None]:
        """The namespaces, or the whole cluster where they are many."""
        if self.spaces == [None] and len(namespaces) > MANY_NAMESPACES:
            return [None]
        return [*sorted(namespaces)]

    def _chosen(self, service: Object, of_operator: Collection[Key]) -> bool:
        meta = service["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        if self.wanted:
            if (namespace, name) not in self.wanted and ("", name) not in self.wanted:
                return False
        elif service["kind"] == manifests.KIND:
            deployment = self.scene.of(Target(namespace, name)).deployment
            if not is_ours(service) and not recognise.runs_nim(service, deployment):
                return False
        # the InferenceService of a NIMService is judged as that
        return service["kind"] != manifests.KIND or (namespace, name) not in of_operator

    def _judged(self, service: Object) -> _Found:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        seen = self.scene.of(Target(namespace, name))
        if "deletionTimestamp" in service["metadata"]:
            return _Found(service, seen, states.Status("ending", "it is being deleted"))
        if service["kind"] == nimservice.KIND and seen.isvc is None:
            seen = self._of_operator(service)
            return _Found(service, seen, nimservice.status_of(service, seen))
        if hidden := self._hidden(namespace):
            return _Found(service, states.Observed(seen.isvc), _kserves_word(seen.isvc or {}, hidden))
        status = states.status_of(None, seen)
        if seen.deployment is not None and not status.current and status.state == "scheduling":
            status = states.status_of(None, seen, self._not_propagated(), settled=True)
        return _Found(service, seen, status)

    def _of_operator(self, service: Object) -> states.Observed:
        key = (nimservice.KIND, service["metadata"]["namespace"], service["metadata"]["name"])
        workloads = self.objects["Deployment", key] + self.objects["StatefulSet", key]
        pods = self.objects["Pod", key]
        events = [event for pod in pods for event in self.objects["Event", str(pod["metadata"].get("uid"))]]
        return nimservice.observed(
            service, workloads[0] if workloads else None, self.objects["ReplicaSet", key], pods, events
        )

    def _hidden(self, namespace: str) -> str:
        """The kind without which the state can't be judged, and that may not be read there."""
        return next(
            (
                kind
                for version, kind in (("apps/v1", "Deployment"), ("apps/v1", "ReplicaSet"), ("v1", "Pod"))
                if self.reader.get(Query(version, kind, namespace, labels=manifests.ISVC_LABEL)) is None
            ),
            "",
        )

    def _not_propagated(self) -> frozenset[str]:
        """Keys of labels and annotations that this KServe keeps out of pods."""
        named = Query("v1", "ConfigMap", KSERVE_NAMESPACE, fields=f"metadata.name={kserve_config.NAME}")
        found = self.reader.get(named)
        return kserve_config.parse(found[0]).not_propagated if found else frozenset()

    def _young(self, found: _Found) -> bool:
        times = [states.moment(pod["metadata"].get("creationTimestamp")) for pod in found.seen.pods]
        newest = max((moment for moment in times if moment), default=None)
        return newest is not None and (self.now - newest).total_seconds() < EVENTS_LAST

    def _verdicts(self, found: Sequence[_Found]) -> Mapping[Key, Mapping[str, Any]]:
        """What the registries say of the keys that the services pull with; nothing where nobody wants to know."""
        if self.way is None:
            return {}
        asked = {each.key: (pod, self._image(each)) for each in found if (pod := pod_of(each.seen))}
        return verdicts(self.reader, asked, self.way)

    # -- what is to be said of it

    def _inspected(self, found: _Found, others: Sequence[_Found]) -> Inspected:
        namespace, name = found.key
        service, deployment = found.service, found.seen.deployment
        status = service.get("status") or {}
        return Inspected(
            namespace,
            name,
            service["kind"],
            managed_by(service),
            found.status.state,
            found.status.detail,
            self._image(found),
            found.status.ready,
            _replicas(deployment),
            found.status.revision,
            str(status.get("url") or (status.get("model") or {}).get("clusterEndpoint") or ""),
            self.beside.address(service, deployment, of_operator=found.of_operator),
            tuple(timeline.of(found.seen)),
            tuple(self._findings(found, others)),
            self.verdicts.get(found.key),
        )

    def _image(self, found: _Found) -> str:
        if found.of_operator:
            return nimservice.image(found.service)
        return recognise.image_of(found.service, found.seen.deployment)

    def _findings(self, found: _Found, others: Sequence[_Found]) -> list[findings.Finding]:
        if found.status.state in ("unknown", "stopped", "ending"):
            return []
        moved = timeline.since(found.seen)
        settled = moved is None or (self.now - moved).total_seconds() >= SETTLES
        if found.of_operator and found.seen.deployment is None:
            return [findings.operator_silent(found.service, nimservice.said(found.service))] if settled else []
        told = findings.diagnose(
            found.seen,
            current=found.status.current,
            logs=self._logs(found.seen.pods, _ended, previous="true"),
            neighbours=[
                pod
                for other in others
                if other.key != found.key and other.key[0] == found.key[0]
                for pod in other.seen.pods
            ],
            around=self._around(found),
            now=self.now,
        )
        return [finding for finding in told if settled or not finding.lasting]

    def _around(self, found: _Found) -> findings.Around:
        around = findings.Around(
            **self.beside.traffic(found.service, found.seen.deployment, of_operator=found.of_operator),
            secrets=self.beside.secrets(found.seen),
            verdict=self.verdicts.get(found.key),
        )
        if found.quiet:
            return around
        own_logs = self._logs(found.seen.pods, _loads_for_long(self.now))
        return replace(around, **self.beside.trouble(found.seen), own_logs=own_logs)

    def _logs(
        self, pods: Iterable[Mapping[str, Any]], wanted: Callable[[Mapping[str, Any]], bool], **options: str
    ) -> dict[str, str]:
        """The end of the main container's log by pod, where its status is of the wanted kind."""
        if not self.logs:
            return {}
        limits = {"tailLines": str(findings.LOG_LINES * 2), "limitBytes": LOG_BYTES}
        return {
            str(pod["metadata"]["uid"]): self.reader.log(
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                {"container": states.main_container(pod)["name"], **limits, **options},
            )
            for pod in [pod for pod in pods if wanted(states.main_container(pod))][:MANY_LOGS]
        }

    def _absent(self, found: Sequence[_Found]) -> list[Inspected]:
        there = {each.key for each in found}
        names = sorted({name for _namespace, name in self._names()})
        missing = [
            (namespace, name)
            for namespace, name in self.wanted
            if not any(key == (namespace, name) or (not namespace and key[1] == name) for key in there)
        ]
        return [
            Inspected(
                namespace,
                name,
                "",
                "",
                "absent",
                "there is no such service",
                findings=(findings.no_such_service(name, names),),
            )
            for namespace, name in missing
        ]

    def _names(self) -> Iterable[Key]:
        for kind in (manifests.KIND, nimservice.KIND):
            for service in self.objects[kind, None]:
                yield service["metadata"]["namespace"], service["metadata"]["name"]


def _ended(container: Mapping[str, Any]) -> bool:
    """It has ended before."""
    return bool(container.get("lastState", {}).get("terminated"))


def _loads_for_long(now: datetime) -> Callable[[Mapping[str, Any]], bool]:
    def loads(container: Mapping[str, Any]) -> bool:
        started = states.moment(container.get("state", {}).get("running", {}).get("startedAt"))
        return not container.get("ready") and started is not None and (now - started).total_seconds() >= SETTLES

    return loads


def _replicas(deployment: Mapping[str, Any] | None) -> dict[str, int]:
    if deployment is None:
        return {"wanted": 0, "ready": 0}
    status = deployment.get("status") or {}
    return {"wanted": deployment.get("spec", {}).get("replicas", 1), "ready": status.get("readyReplicas", 0)}


def _kserves_word(isvc: Mapping[str, Any], hidden: str) -> states.Status:
    """What KServe alone says of a service whose pods may not be seen: less than whether this specification is up."""
    ready = states.condition(isvc, "Ready")
    words = " ".join(str(ready[key]) for key in ("status", "reason", "message") if ready.get(key)) or "nothing"
    return states.Status("unknown", f"{hidden} objects may not be read; KServe says of Ready: {words}")
