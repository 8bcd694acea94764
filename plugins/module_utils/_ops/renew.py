# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Renew the pods of one service, so that they start with what its Secrets hold now, and prove that it answers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Conflict, KubeError, NotFound
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim import contract, manifests, names, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops import chat, strategy
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_users import KeyService, serving
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress
from ansible_collections.gpuops.nim.plugins.module_utils._ops.strategy import IN_PLACE, SURGE
from ansible_collections.gpuops.nim.plugins.module_utils._ops.wait import Outcome, Target, look, wait_until_ready

Object = dict[str, Any]

FRESH = "fresh"  # beside surge and in_place: the pod served nobody
SETTLE = 3.0  # seconds; an ingress learns of a pod that came, or went, a moment after Kubernetes
GONE = 60.0  # seconds that a pod may take to end beyond its own grace period


@dataclass
class Job:
    """One service: what is to be done to its pods and, as it goes on, what was.

    stuck: pods that failed before the change. aside: pods that a run which was cut off had set aside. old: running with
    the old key. late: nothing is to be renewed, but a pod that was is not ready yet.
    """

    service: KeyService
    stuck: Sequence[Object] = ()
    aside: Sequence[Object] = ()
    old: Sequence[Object] = ()
    late: bool = False
    how: str = ""
    why: str = ""
    action: str = "not_reached"
    renewed: list[str] = field(default_factory=list)
    outage: float | None = None
    seconds: float = 0.0
    model: str | None = None
    findings: list[Object] = field(default_factory=list)
    error: str = ""

    @property
    def pods(self) -> list[str]:
        """In the order in which they go."""
        return [str(pod["metadata"]["name"]) for pod in (*self.stuck, *self.aside, *self.old)]

    def data(self) -> Object:
        return {
            "name": self.service.name,
            "namespace": self.service.namespace,
            "image": self.service.image,
            "managed_by": self.service.managed_by,
            "action": self.action,
            "how": self.how or None,
            "why": self.why,
            "pods": self.pods,
            "outage_seconds": self.outage,
            "seconds": round(self.seconds, 1),
            "model": self.model,
            "findings": self.findings,
            "error": self.error,
        }


class _NoRoom(Exception):
    """The second pod found no node after all."""


class Renewer:
    """``params``: ``chat``, ``ingress_address``, ``wait_timeout`` and ``unschedulable_grace`` of the module."""

    def __init__(self, client: Client, params: Mapping[str, Any], progress: Progress) -> None:
        self._client = client
        self._params = params
        self._progress = progress

    def plan(self, job: Job) -> None:
        """Fill in how the pods of the service would be renewed at this moment, and why so."""
        if job.old or job.aside:
            job.how, job.why = self._choose(job.service) if job.old else (SURGE, _CUT_OFF)
        elif job.stuck:
            job.how, job.why = FRESH, _STUCK

    def renew(self, job: Job) -> None:
        """Renew what has to be, one pod at a time, and see the service answer.

        :raises OpsError: it does not come back; whatever serves still does.
        """
        _Renewal(self._client, self._params, self._progress, job, self._choose).run()

    def _choose(self, service: KeyService) -> tuple[str, str]:
        template = {"metadata": service.isvc["metadata"], "spec": {"predictor": service.pod}}
        claims = {}
        if states.claims_of(template):
            found = self._client.list("v1", "PersistentVolumeClaim", service.namespace).items
            claims = {claim["metadata"]["name"]: claim for claim in found}
        # looked at anew for each pod: what the last one left is free again
        return strategy.Chooser(self._client).choose(template, claims)


_CUT_OFF = "a run that was cut off has set its old pod aside already"
_STUCK = "its pod has failed and serves nobody: a new one reads what the Secrets hold now"


class _Renewal:
    def __init__(self, client: Client, params: Mapping[str, Any], progress: Progress, job: Job, choose: Any) -> None:
        self._client = client
        self._params = params
        self._job = job
        self._service = job.service
        self._choose = choose
        self._begun = time.monotonic()
        self._told = progress
        self._target = Target(job.service.namespace, job.service.name)

    def run(self) -> None:
        job = self._job
        job.action = "failed"
        try:
            self._run()
        except (OpsError, KubeError) as error:
            job.error = str(error)
            self._say(f"failed: {error}")
            raise OpsError(str(error)) from None
        finally:
            job.seconds = time.monotonic() - self._begun
        job.action = "renewed" if job.pods else "unchanged"
        self._say("done")

    def _run(self) -> None:
        job = self._job
        if (job.old or job.aside) and serving(self._service.pods):
            self._ask("before")
        if job.stuck:
            job.how, job.why = FRESH, _STUCK
            for pod in job.stuck:
                self._say(f"pod {_name(pod)} has failed; a new one reads what the Secrets hold now")
                self._delete(pod)
        if job.stuck or job.late:
            self._ready(frozenset(map(_name, job.aside)))
            self._ask()
        for pod in job.aside:
            job.how, job.why = SURGE, _CUT_OFF
            self._hand_over(pod, put_back=False)
        for pod in job.old:
            job.how, job.why = self._choose(self._service)
            if job.how == SURGE and self._controller(pod):
                try:
                    self._surge(pod)
                    continue
                except _NoRoom:
                    job.how, job.why = IN_PLACE, "the second pod found no node, so the old one ended first"
            self._in_place(pod)

    # the two ways

    def _surge(self, pod: Object) -> None:
        """Renew a pod without anybody noticing.

        Kubernetes' own way, a restart annotation on the Deployment, does not work under KServe: it takes the annotation
        back at once, so that no pod or, with the strategy Recreate, all of them are renewed; it takes a changed number
        of replicas back, too; and what is changed in the InferenceService stays there. A pod that loses the label of
        its ReplicaSet is replaced at once but serves on, as it keeps the label of the Service: so nothing but pods is
        touched, and what is left of a run that was cut off are the marks on one pod. It is the Deployment's from then
        on, so that it goes when the service does.
        """
        self._say(f"surge: {self._job.why}; pod {_name(pod)} serves until its successor does")
        owner = self._service.deployment or {}
        reference = {"apiVersion": "apps/v1", "kind": "Deployment"}
        reference.update({key: owner["metadata"][key] for key in ("name", "uid")})
        aside = self._mark(pod, (states.TEMPLATE_HASH,), ownerReferences=[reference])
        self._hand_over(aside, put_back=True)
        self._add_outage(0.0)

    def _hand_over(self, aside: Object, *, put_back: bool) -> None:
        """The rest of it, from the moment that the old pod is set aside.

        :param put_back: make it its ReplicaSet's again if the new one fails; one of another run may be of an older
            revision, so it is only let serve on.
        """
        try:
            self._ready(frozenset([_name(aside)]))
            time.sleep(SETTLE)
            outside = self._mark(aside, self._selector())
        except OpsError as error:
            homeless = put_back and self._homeless(aside)
            self._restore(aside, put_back)
            if homeless:
                self._say(f"the second pod found no node: {error}")
                raise _NoRoom from None
            raise
        try:
            self._ask()
        except OpsError:
            self._restore(outside, put_back)
            raise
        time.sleep(SETTLE)  # requests that are under way
        self._delete(outside)
        self._gone(outside)

    def _in_place(self, pod: Object) -> None:
        others = [each for each in serving(self._now()) if _name(each) != _name(pod)]
        served = bool(serving([pod]))
        self._say(f"in place: {self._job.why}; pod {_name(pod)} ends")
        self._delete(pod)
        ended = time.monotonic()
        self._ready(frozenset())
        self._ask()
        lasted = time.monotonic() - ended if served and not others else 0.0
        self._add_outage(lasted)
        if lasted:
            self._say(f"it did not answer for {lasted:.1f} s")
        self._gone(pod)

    # steps

    def _ready(self, leaving: frozenset[str]) -> None:
        outcome = wait_until_ready(
            self._client,
            [Target(self._service.namespace, self._service.name, leaving=leaving)],
            timeout=self._params["wait_timeout"],
            progress=self._told,
            grace=self._params["unschedulable_grace"],
        )[self._target.key]
        if outcome.error:
            self._note(outcome)
            raise OpsError(outcome.error)

    def _note(self, outcome: Outcome) -> None:
        self._job.findings = [asdict(finding) for finding in outcome.findings]

    def _ask(self, when: str = "") -> None:
        if not self._params["chat"]:
            return
        service = self._service
        api = contract.api_of(service.image)
        try:
            answer = chat.ask_service(
                self._client, service.namespace, service.name, api, self._params["ingress_address"], lambda line: None
            )
        except OpsError as error:
            if when:
                raise OpsError(
                    f"It does not answer before anything was done to it, so an answer could prove nothing afterwards: "
                    f"{error} Correct that, or set chat: false to be content with pods that are ready."
                ) from None
            raise
        self._job.model = answer["model"]
        if not when:
            self._say(f"{answer['model']} answers")

    def _now(self) -> list[Object]:
        """The service's pods at this moment."""
        selector = f"{manifests.ISVC_LABEL}={self._service.name}"
        found = self._client.list("v1", "Pod", self._service.namespace, labels=selector).items
        return [pod for pod in found if pod["metadata"]["labels"].get("component", "predictor") == "predictor"]

    def _homeless(self, aside: Object) -> bool:
        """Whether no pod but those that were there before has a node."""
        before = {each["metadata"]["uid"] for each in self._service.pods} | {aside["metadata"]["uid"]}
        new = [each for each in self._now() if each["metadata"]["uid"] not in before]
        return not any(each["spec"].get("nodeName") for each in new)

    def _controller(self, pod: Object) -> bool:
        owners = pod["metadata"].get("ownerReferences") or ()
        return self._service.deployment is not None and any(
            each.get("controller") and each["kind"] == "ReplicaSet" for each in owners
        )

    def _selector(self) -> tuple[str, ...]:
        """The label that makes a pod the Service's."""
        found = self._client.get("v1", "Service", f"{self._service.name}-predictor", self._service.namespace)
        keys = [key for key in ((found or {}).get("spec") or {}).get("selector") or {} if key != manifests.ISVC_LABEL]
        return tuple(keys[:1])

    def _mark(self, pod: Object, labels: Sequence[str], **metadata: Any) -> Object:
        """Take labels from a pod and note on it what they were."""
        meta = pod["metadata"]
        live = meta.get("labels") or {}
        left = {key: live[key] for key in labels if key in live}
        if not left:  # a run that was cut off has done it
            return pod
        taken = {**_taken(pod), **left}
        change = {
            "labels": dict.fromkeys(labels),
            "annotations": {names.ASIDE_ANNOTATION: json.dumps(taken, sort_keys=True)},
            **metadata,
        }
        return self._patch(pod, change)

    def _restore(self, pod: Object, whole: bool) -> None:
        """Have a pod serve again; ``whole``: as its ReplicaSet's, which then ends the pod that is not ready."""
        taken = _taken(pod)
        if whole:
            change: Object = {"labels": taken, "annotations": {names.ASIDE_ANNOTATION: None}, "ownerReferences": []}
        else:
            change = {"labels": {key: text for key, text in taken.items() if key != states.TEMPLATE_HASH}}
        self._patch(pod, change)
        self._say(f"pod {_name(pod)} serves on, with the old key")

    def _patch(self, pod: Object, change: Object) -> Object:
        meta = pod["metadata"]
        return {
            **self._client.patch(pod, {"metadata": {"uid": meta["uid"], **change}}),
            "apiVersion": "v1",
            "kind": "Pod",
        }

    def _delete(self, pod: Object) -> None:
        try:
            self._client.delete(
                "v1", "Pod", _name(pod), self._service.namespace, propagation="Background", uid=pod["metadata"]["uid"]
            )
        except (NotFound, Conflict):  # somebody else was faster
            return
        self._job.renewed.append(_name(pod))

    def _gone(self, pod: Object) -> None:
        """Until then it holds its GPU, which the next service may need."""
        patience = float(pod["spec"].get("terminationGracePeriodSeconds") or 0) + GONE
        query = Query("v1", "Pod", self._service.namespace, fields=f"metadata.name={_name(pod)}")
        end = time.monotonic() + patience
        with Mirror(self._client, [query]) as mirror:
            while time.monotonic() < end:
                if mirror.wait(end - time.monotonic()) and not mirror.objects("Pod"):
                    return
        self._say(f"pod {_name(pod)} is still ending")

    def _add_outage(self, seconds: float) -> None:
        self._job.outage = round((self._job.outage or 0.0) + seconds, 1)

    def _say(self, text: str) -> None:
        self._told(f"[{self._service}] ({time.monotonic() - self._begun:.0f} s) {text}")


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _taken(pod: Object) -> dict[str, str]:
    return dict(json.loads((pod["metadata"].get("annotations") or {}).get(names.ASIDE_ANNOTATION, "{}")))


def is_ready(client: Client, service: KeyService) -> bool:
    target = Target(service.namespace, service.name)
    return look(client, [target])[target.key].status.ready
