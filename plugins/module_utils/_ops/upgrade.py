# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Another release for services that run: fetched first, rolled out, asked, and taken back if it does not answer.

One service after the other, and no further once one has failed. Nothing is remembered outside the cluster: a run that
was cut off is finished by the same run again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    Forbidden,
    KindMissing,
    KubeError,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import is_ours, owned, owner
from ansible_collections.gpuops.nim.plugins.module_utils._nim import (
    contract,
    extras,
    names,
    prepull,
    release,
    spec,
    states,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim.findings import Finding
from ansible_collections.gpuops.nim.plugins.module_utils._nim.manifests import ISVC_LABEL
from ansible_collections.gpuops.nim.plugins.module_utils._nim.manifests import strategy as deployment_strategy
from ansible_collections.gpuops.nim.plugins.module_utils._nim.options import container, nim
from ansible_collections.gpuops.nim.plugins.module_utils._nim.options.check import Check
from ansible_collections.gpuops.nim.plugins.module_utils._nim.release import BadRelease, Release, Wanted
from ansible_collections.gpuops.nim.plugins.module_utils._ops import chat, revisions, strategy
from ansible_collections.gpuops.nim.plugins.module_utils._ops.prepull import Pull, pull
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.revisions import Revision
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import BadEntry, read_all
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import Service, Task, by_namespace
from ansible_collections.gpuops.nim.plugins.module_utils._ops.wait import Target, look, wait_until_ready

Object = dict[str, Any]

# How the new release is asked: nim_chat's options, apart from whom.
CHAT_ARGUMENTS: Object = {
    **{name: option for name, option in chat.QUESTION_ARGUMENTS.items() if name not in ("name", "namespace")},
    "api": {"type": "str", "choices": ["auto", "chat", "embeddings", "ranking", "none"], "default": "auto"},
}
# One service. The same options stand at the top level and in the entries of `services`.
UPGRADE_ARGUMENTS: Object = {
    "name": {"type": "str"},
    "namespace": {"type": "str", "default": "default"},
    "image": {"type": "str"},
    "tag": {"type": "str"},
    "model_profile": {"type": "str"},
    "update_strategy": {"type": "str", "choices": ["auto", "in_place", "surge"], "default": "auto"},
    "chat": {"type": "dict", "options": CHAT_ARGUMENTS, "apply_defaults": True},
    "adopt": {"type": "bool", "default": False},
}
TASK_ARGUMENTS: Object = {
    "services": {"type": "list", "elements": "dict"},
    "pre_pull": {"type": "str", "choices": ["auto", "never"], "default": "auto"},
    "rollback": {"type": "bool", "default": True},
    "keep": {"type": "int", "default": 3},
    "kserve_namespace": {"type": "str", "default": "kserve"},
    "wait_timeout": {"type": "int", "default": 3600},
    "unschedulable_grace": {"type": "int", "default": 60},
}
# Causes that say nothing of a release: a registry, NGC or the way there has trouble of its own.
_OUTAGES = ("busy", "network")


@dataclass
class Upgrading(Service):
    """A service on its way. ``action``: what was done, or in check mode would be."""

    ask: Wanted = field(default_factory=Wanted)
    live: Object = field(default_factory=dict)
    known: list[Revision] = field(default_factory=list)
    before: Release | None = None
    after: Release | None = None
    ready: bool = False  # before anything was done
    going_on: bool = False  # a run before this one was cut off after its change
    done: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    revision: str = ""
    answer: str | None = None
    why: tuple[Finding, ...] = ()  # it was taken back

    def data(self) -> Object:
        known = super().data()
        kept = ("name", "namespace", "state", "update_strategy", "phases", "error")
        found = self.why or (self.outcome.findings if self.outcome else ())
        return {
            **{key: known[key] for key in kept},
            "action": self.done or "untouched",
            "before": _told(self.before),
            "after": _told(self.after),
            "revision": self.revision or None,
            "seconds": self.seconds,
            "answer": self.answer,
            "findings": [asdict(finding) for finding in found],
        }

    @property
    def namespaced(self) -> str:
        return f"-n {self.namespace} {self.name}"


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Bring the services of a task to another image or model profile.

    :raises OpsError: bad options, no such service, an image that can't be had (nothing was changed); a release that
        does not come up or answer (the service is back on the old one, unless that was not wanted or can't be).
    :raises KubeError: there is no way to the cluster, and nothing was changed.
    """
    if params["keep"] < 1:
        raise OpsError(f"keep: is {params['keep']}, must be 1 or more; the newest one is the way back")
    services = [
        Upgrading(entry, namespace, name, ask=ask)
        for entry, (namespace, name, ask) in read_all(params, _wanted, UPGRADE_ARGUMENTS, TASK_ARGUMENTS)
    ]
    task = Upgrade(params, services, check_mode, diff, progress)
    try:
        return task.run()
    except KubeError as error:
        task.lost(error)
        raise


def _wanted(params: Mapping[str, Any]) -> tuple[str, str, Wanted]:
    check = Check(params)
    try:
        namespace, name = spec.identity(params)
    except spec.BadSpec as error:
        check.errors += error.errors
        namespace = name = ""
    image, tag, profile = params["image"], params["tag"], params["model_profile"]
    if image is not None and tag is not None:
        check.bad("tag", "stands beside image; give one of the two")
    elif image is not None:
        container.image(check)
    elif tag is not None:
        wrong = release.wrong_tag(tag)
        if wrong:
            check.bad("tag", wrong)
    elif profile is None:
        check.bad("image", "is missing; give image, tag or model_profile, for nothing is upgraded by itself")
    nim.profile(check)
    question = {**params["chat"], "api": "chat" if params["chat"]["api"] == "auto" else params["chat"]["api"]}
    check.errors += [(f"chat.{option}", text) for option, text in chat.wrong_in(question)]
    if question["tls_ca"] and not os.path.isfile(question["tls_ca"]):
        check.bad("chat.tls_ca", f"there is no file {question['tls_ca']}")
    if check.errors:
        raise BadEntry(check.errors)
    return namespace, name, Wanted(image, tag, profile)


class Upgrade(Task):
    services: list[Upgrading]

    def run(self) -> Result:
        self._find()
        self._plan()
        to_do = [service for service in self.services if service.done != "unchanged"]
        if not self.check_mode:
            self._pre_pull([each for each in to_do if not each.going_on and _image(each.before) != _image(each.after)])
        for service in self.services:
            try:
                if service in to_do:
                    self._upgrade(service)
                else:
                    self._see(service)
            except (KubeError, OpsError) as error:
                service.error = self.explained(error)
                if isinstance(error, (Unreachable, Unauthorized)):
                    service.error += _GO_ON
            if service.error:
                break
        return self.finish()

    def finish(self) -> Result:
        failed = next((service for service in self.services if service.error), None)
        if failed is None:
            return super().finish()
        rest = [str(each) for each in self.services[self.services.index(failed) + 1 :] if each.done != "unchanged"]
        after = f"\nNot begun after that: {', '.join(rest)}." if rest else ""
        raise self.failure(f"[{failed}] {failed.error}{after}")

    # before anything is changed

    def _find(self) -> None:
        """Read the services and what they are to become; all that can't be is said at once."""
        wrong: list[str] = []
        for namespace, mine in by_namespace(self.services).items():
            live = self.live(namespace)
            for service in mine:
                try:
                    self._find_one(service, live.get(service.name))
                except BadRelease as error:
                    wrong.append(f"[{service}] {error.option}: {error.text}")
                except OpsError as error:
                    wrong.append(f"[{service}] {error.message}")
        if wrong:
            raise OpsError("\n".join(wrong))

    def _find_one(self, service: Upgrading, live: Object | None) -> None:
        if live is None:
            raise OpsError("name: there is no such service to upgrade; deploy it with nim_kserve")
        if "deletionTimestamp" in live["metadata"]:
            raise OpsError("name: the service is being deleted")
        if not is_ours(live) and not service.entry.params["adopt"]:
            raise OpsError(
                f"InferenceService {service} isn't ours: {owner(live)}. Upgrade it with what made it, or take it over "
                "with adopt: true."
            )
        if (live["metadata"].get("annotations") or {}).get(names.STOP_ANNOTATION) == "true":
            raise OpsError("name: the service is stopped, so nothing would show whether it works; start it first")
        service.live, service.before = live, release.of(live)
        service.after = release.next_of(service.before, service.ask)
        service.warnings += [
            f"[{service}] {note}" for note in release.notes(service.before, service.after, release.served_name(live))
        ]

    def _plan(self) -> None:
        """What there is to do for each, and whether the cluster would take it."""
        targets = [Target(service.namespace, service.name) for service in self.services]
        outcomes = look(self.client, targets)
        for service in self.services:
            service.outcome = outcomes[service.namespace, service.name]
            service.ready = service.outcome.status.ready
            service.strategy = strategy.kept(service.live)
            service.known = revisions.of(self.client, service.live)
            newest = service.known[0] if service.known else None
            if service.before == service.after:
                service.going_on = bool(newest and newest.upgrading == str(service.after))
                if not service.going_on:
                    service.done = "unchanged"
                elif newest:
                    service.revision = newest.name
                    service.before = release.of(newest.content)
            else:
                self._apply(service, check_mode=True, plan=True)
            if service.done != "unchanged":
                self._refuse_rotated(service)

    def _refuse_rotated(self, service: Upgrading) -> None:
        """A pod that a rotation has set aside is no Deployment's to end: no release would ever be alone."""
        labels = f"{ISVC_LABEL}={service.name}"
        aside = states.set_aside(self.client.list("v1", "Pod", service.namespace, labels=labels).items)
        if aside:
            raise OpsError(
                f"[{service}] a key rotation has set its pod {aside[0]['metadata']['name']} aside: it is under way, or "
                "was cut off. Run it again first, it goes on from there: ansible-playbook gpuops.nim.rotate_key. "
                "Nothing was changed."
            )

    def _pre_pull(self, services: list[Upgrading]) -> None:
        if self.params["pre_pull"] == "never" or not services:
            return
        chooser = strategy.Chooser(self.client)
        begun = time.monotonic()
        pulls = [
            Pull(service.live, _image(service.after), node)
            for service in services
            for node in self._nodes(service, chooser)
        ]
        answers = pull(self.client, pulls, timeout=self.params["wait_timeout"], progress=self.progress)
        for service in services:
            service.seconds["pre_pull"] = _since(begun)
            for answer in answers.get((service.namespace, service.name), []):
                if answer.state in ("refused", "waiting"):
                    service.error = self._not_pulled(service, answer)
                    service.why = (answer.finding,) if answer.finding else ()
                elif answer.state == "skipped":
                    service.warnings.append(
                        f"[{service}] pre_pull: the image is not fetched beforehand: {answer.detail}"
                    )
        refused = [service for service in services if service.error]
        if refused:
            raise self.failure("\n".join(f"[{service}] {service.error}" for service in refused))

    def _not_pulled(self, service: Upgrading, answer: prepull.Answer) -> str:
        if answer.finding:
            said = answer.finding.text()
        elif answer.state == "waiting":
            said = f"not fetched after {self.params['wait_timeout']} s (wait_timeout): {answer.detail}"
        else:
            said = answer.detail
        return f"{_image(service.after)} can't be had, so the service was not touched: {said}"

    def _nodes(self, service: Upgrading, chooser: strategy.Chooser) -> list[str]:
        """Where the service runs, and where its next pod may."""
        labels = f"{ISVC_LABEL}={service.name}"
        pods = self.client.list("v1", "Pod", service.namespace, labels=labels).items
        here = {pod["spec"].get("nodeName") for pod in pods if "deletionTimestamp" not in pod["metadata"]}
        there = chooser.place(self._body(service, service.strategy), self._claims(service))[0]
        return sorted(name for name in {*here, there} if name)

    # the change

    def _upgrade(self, service: Upgrading) -> None:
        begun = time.monotonic()
        if not service.going_on:
            self._remember(service)
            self._apply(service, check_mode=self.check_mode)
        service.done = "upgraded" if self.check_mode else "failed"  # until it is not
        self._metrics(service, service.after)
        if self.check_mode:
            return
        cause = self._roll(service) or self._ask(service)
        if cause:
            self._failed(service, cause)
        else:
            self._settle(service)
            service.done = "upgraded"
        service.seconds["all"] = round(_since(begun) + service.seconds.get("pre_pull", 0), 1)

    def _remember(self, service: Upgrading) -> None:
        """Have the way back in the cluster, with where we go, before the service is touched."""
        content = self._way_back(service)
        if content is None:
            service.warnings.append(
                f"[{service}] is not ready and has no specification that was, so there is no way back from this one"
            )
            return
        revision, change = revisions.write(
            self.client,
            service.live,
            content,
            service.known,
            upgrading=str(service.after),
            check_mode=self.check_mode,
        )
        service.note(change)
        service.revision = revision.name
        service.known = [revision, *(each for each in service.known if each.name != revision.name)]
        for old in revisions.prune(
            self.client, service.live, service.known, self.params["keep"], check_mode=self.check_mode
        ):
            service.note(old)

    def _way_back(self, service: Upgrading) -> Object | None:
        """What the service is taken back to: what runs if it works, else what did so last."""
        if service.ready or not service.known:
            return revisions.content_of(service.live) if service.ready else None
        newest = service.known[0]
        # an upgrade that was not finished has left what runs now, and says so
        if newest.upgrading or release.of(newest.content) == service.before:
            return newest.content
        service.warnings.append(
            f"[{service}] is not ready, and what was recorded last is of another release "
            f"({release.of(newest.content)}): the way back is to {service.before} as it is now"
        )
        return revisions.content_of(service.live)

    def _apply(self, service: Upgrading, *, check_mode: bool, plan: bool = False) -> None:
        """Write the service with its new release, or in ``check_mode`` see whether it could be."""
        asked = str(service.entry.params["update_strategy"])
        word, why = asked, ""
        if asked == "auto":
            chooser = strategy.Chooser(self.client)
            word, why = chooser.choose(self._body(service, service.strategy), self._claims(service))
        change = self._ensure(service, self._body(service, word), check_mode=check_mode)
        if plan:
            return
        service.note(change)
        service.strategy, service.isvc = word, change.after
        if not check_mode:
            self.progress(f"[{service}] {service.before} → {service.after}, {word}" + (f": {why}" if why else ""))

    def _ensure(self, service: Upgrading, body: Object, *, check_mode: bool, again: bool = False) -> Change:
        adopt = service.entry.params["adopt"]
        live = None if again else service.live
        return ensure(self.client, body, check_mode=check_mode, adopt=adopt, live=live)

    def _body(self, service: Upgrading, word: str) -> Object:
        content = revisions.content_of(service.live)
        body = release.changed(revisions.as_object(content, service.live), service.after or Release(""))
        predictor = body["spec"]["predictor"]
        replicas = max(int(predictor.get("minReplicas", 1)), int(predictor.get("maxReplicas") or 0))
        predictor["deploymentStrategy"] = deployment_strategy(word, replicas)
        return body

    def _claims(self, service: Upgrading) -> dict[str, Object]:
        if not states.claims_of(service.live):
            return {}
        try:
            found = self.client.list("v1", "PersistentVolumeClaim", service.namespace).items
        except Forbidden:
            return {}
        return {claim["metadata"]["name"]: claim for claim in found}

    def _metrics(self, service: Upgrading, to: Release | None) -> None:
        """Release lines have their metrics at other paths: what we made for Prometheus goes along."""
        path = contract.contract_for(_image(to)).metrics_path
        if len({contract.contract_for(_image(each)).metrics_path for each in (service.before, service.after)}) == 1:
            return
        for kind, part in ((extras.SERVICE_MONITOR, "endpoints"), (extras.POD_MONITOR, "podMetricsEndpoints")):
            try:
                live = self.client.get(kind.api_version, kind.kind, kind.name(service.name), service.namespace)
            except (Forbidden, KindMissing):
                continue
            mine = owned(live) if live and is_ours(live) else {}
            if not mine.get("spec", {}).get(part):
                continue
            for place in mine["spec"][part]:
                place["path"] = path
            meta = {"name": kind.name(service.name), "namespace": service.namespace, **mine["metadata"]}
            obj = {**mine, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}
            service.note(ensure(self.client, obj, check_mode=self.check_mode))

    # whether it works

    def _see(self, service: Upgrading) -> None:
        """What is to stay as it is: only look, and wait if it is not ready."""
        if not service.ready and not self.check_mode:
            cause = self._roll(service)
            service.error = cause.text if cause else ""

    def _roll(self, service: Upgrading) -> _Cause | None:
        """Wait until the service is ready as it stands now; what keeps it from that."""
        target = Target(service.namespace, service.name, service.isvc)
        begun = time.monotonic()
        service.outcome = wait_until_ready(
            self.client,
            [target],
            timeout=self.params["wait_timeout"],
            progress=self.progress,
            grace=self.params["unschedulable_grace"],
            ignored=self._ignored,
        )[target.key]
        service.seconds["roll"] = _since(begun)
        if not service.outcome.error:
            return None
        # what ended the wait may be no more than its time, through which the API server was away
        outage = [f for f in service.outcome.findings if f.heals and f.variant in _OUTAGES]
        if not outage and look(self.client, [target], self._ignored)[target.key].status.ready:
            return None
        return _Cause(service.outcome.error, service.outcome.findings, known=not outage)

    def _ask(self, service: Upgrading) -> _Cause | None:
        question = {**service.entry.params["chat"], "name": service.name, "namespace": service.namespace}
        if question["api"] == "none":
            return None
        if question["api"] == "auto":
            question["api"] = contract.api_of(_image(service.after))
        begun = time.monotonic()
        try:
            answer = chat.ask(question, self.client, lambda line: self.progress(f"[{service}] {line}"))
        except OpsError as error:
            return self._no_answer(service, question, error)
        finally:
            service.seconds["chat"] = _since(begun)
        service.answer = answer.get("answer")
        return None

    def _no_answer(self, service: Upgrading, question: Object, error: OpsError) -> _Cause | None:
        """Nobody there may be the fault of the way there: then the API server's tells whether the model answers."""
        text = f"it is ready, but does not answer: {error.message}"
        if "served_models" in error.data or question["via"] == "apiserver":
            return _Cause(text)
        try:
            chat.ask({**question, "via": "apiserver"}, self.client, lambda line: None)
        except OpsError:
            return _Cause(text)
        except Forbidden:
            return _Cause(f"{text} Whether the model would answer is not known", known=False)
        return _Cause(
            f"the model answers the API server, but not on its users' way: {error.message} Mend that, or set chat",
            known=False,
        )

    def _settle(self, service: Upgrading) -> None:
        """The upgrade has come to its end: nobody has to go on with it."""
        newest = service.known[0] if service.known else None
        if newest and newest.upgrading:
            _name, change = revisions.write(
                self.client, service.live, newest.content, service.known, upgrading="", check_mode=False
            )
            service.note(change)

    # the way back

    def _failed(self, service: Upgrading, cause: _Cause) -> None:
        newest = service.known[0] if service.known else None
        head = f"{service.after} failed: {cause.text}"
        if not cause.known:
            service.error = (
                f"{head}\nThat says nothing of the new release, so the service was left with it. When this is mended, "
                "the same run again goes on."
            )
            return
        if not self.params["rollback"]:
            service.error = f"{head}\nThe service was left with it (rollback: false). {self._by_hand(service)}"
            return
        if newest is None:
            service.error = f"{head}\nThere is no earlier specification that worked, so the service was left with it."
            return
        back = release.of(newest.content)
        self.progress(f"[{service}] back to {back}: {cause.text.splitlines()[0]}")
        service.why = cause.findings
        begun = time.monotonic()
        change = service.note(
            self._ensure(service, revisions.as_object(newest.content, service.live), check_mode=False, again=True)
        )
        service.isvc, service.strategy = change.after, strategy.kept(change.after)
        self._metrics(service, back)
        waited = dict(service.seconds)
        late = self._roll(service) or self._ask_old(service, back)
        service.seconds = {**waited, "back": _since(begun)}
        if late:
            service.error = f"{head}\nThe service was taken back to {back}, which is not up again: {late.text}"
            return
        self._settle(service)
        service.done = "rolled_back"
        word = "is ready" if service.entry.params["chat"]["api"] == "none" else "answers"
        service.error = f"{head}\nThe service is back on {back} and {word} again ({service.seconds['back']:.0f} s)."

    def _ask_old(self, service: Upgrading, back: Release) -> _Cause | None:
        service.after, wanted = back, service.after
        try:
            return self._ask(service)
        finally:
            service.after = wanted

    def _by_hand(self, service: Upgrading) -> str:
        return f"To go back: nim_upgrade with image: {_image(service.before)}."

    @property
    def _ignored(self) -> frozenset[str]:
        try:
            return self.kserve.not_propagated
        except (Forbidden, OpsError):
            return frozenset()


@dataclass(frozen=True)
class _Cause:
    """Why a service is not up. ``known``: that is established, and it is the release's own trouble."""

    text: str
    findings: tuple[Finding, ...] = ()
    known: bool = True


_GO_ON = "\nWhat has been done stays; the same run again goes on from there."


def _told(of: Release | None) -> Object | None:
    return {"image": of.image, "model_profile": of.profile} if of else None


def _image(of: Release | None) -> str:
    return of.image if of else ""


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 1)
