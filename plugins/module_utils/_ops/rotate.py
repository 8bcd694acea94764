# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Another NGC key for all that uses the old one: verified, written, taken up by the pods that need it, and proven.

Nothing is remembered between runs. What is left to do is read from the cluster: what the Secrets hold, when that was
written, and when each pod's containers started.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import clean
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.verdict import GOOD, REFUSED
from ansible_collections.gpuops.nim.plugins.module_utils._nim import names, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops import key_info, key_users, secret
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_users import KeyService, Names, Place
from ansible_collections.gpuops.nim.plugins.module_utils._ops.new_key import NewKey, given_logins, is_ngc
from ansible_collections.gpuops.nim.plugins.module_utils._ops.renew import Job, Renewer, is_ready
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.secret import Report, put

Object = dict[str, Any]
Kinds = frozenset[str]  # of Secrets: pull, runtime

_BOTH = frozenset((secret.PULL, secret.RUNTIME))
# What the one-click service installs arena with; a new key there meant a new Job
ARENA_JOB, ARENA_ACCOUNT = "arena-client-config-job", "arena-client-sa"


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Put the key into all namespaces that use one, and renew the pods that still run with another.

    :raises BadKey: a key that can't be one; nothing was sent.
    :raises OpsError: the key is refused or can't be verified, and nothing was written; or a service did not come back:
        the data tell what is done and what is not.
    :raises KubeError: there is no way to the cluster.
    """
    return _Rotation(params, check_mode, diff, progress).run()


class _Rotation:
    def __init__(self, params: Mapping[str, Any], check_mode: bool, diff: bool, progress: Progress) -> None:
        self._params = {**params, "create_namespace": False}
        self._check_mode, self._diff, self._progress = check_mode, diff, progress
        self._namespaces = [name for name in dict.fromkeys(params["namespaces"] or ()) if name]
        if wrong := secret.misnamed(params, self._namespaces):
            raise OpsError("\n".join(wrong))
        key = clean(params["ngc_api_key"])
        self._key = NewKey(key, given_logins(params["registries"], key))
        self._names = Names(params["pull_secret"], params["runtime_secret"])
        self._client = connect(params)
        self._renewer = Renewer(self._client, params, progress)
        self._report = Report(progress, check_mode)
        self._verdicts: list[Object] = []
        self._ngcs_word: Object | None = None  # about the key itself
        self._jobs: list[Job] = []
        self._places: list[Place] = []
        self._tidied: list[Object] = []
        self._changes: list[Change] = []  # of what is tidied
        self._not_handled: list[Object] = []

    def run(self) -> Result:
        places = self._find()
        planned = {place.name: self._key.wanted(place, self._names) for place in places}
        would = self._try_out(planned)
        self._jobs = [job for place in places for job in self._needs(place, would.get(place.name, frozenset()))]
        self._verify(places, change=bool(would or self._jobs))
        self._write(planned)
        if not self._check_mode:
            if self._report.changed:
                # times have whole seconds: a pod made in the second of the change could not be told from an old one
                time.sleep(1.1)
            places = self._find()
            self._jobs = [job for place in places for job in self._needs(place)]
        self._jobs.sort(key=lambda job: (not (job.stuck or job.late), str(job.service)))
        self._renew()
        self._tidy()
        self._places = self._find() if self._jobs and not self._check_mode else places
        self._warn()
        return Result(self._changed, self._data, self._diffs, self._report.warnings)

    # 1. who uses the key

    def _find(self) -> list[Place]:
        places = key_users.find(self._client, self._namespaces, self._names)
        unused = [name for name in self._namespaces if name not in {place.name for place in places}]
        if unused:
            raise OpsError(
                f"namespaces: nothing in {', '.join(unused)} uses the key: there are not both of the Secrets "
                f"{self._names.pull} and {self._names.runtime}, and no InferenceService whose pods name one of them. "
                "Correct the name, or leave it out."
            )
        self._not_handled = [
            {"kind": "InferenceService", "namespace": each.namespace, "name": each.name, "why": each.not_handled}
            for place in places
            for each in place.services
            if each.not_handled
        ] + [
            {
                "kind": each["kind"],
                "namespace": each["metadata"]["namespace"],
                "name": each["metadata"]["name"],
                "why": key_users.OPERATORS,
            }
            for each in key_users.operators(self._client, self._namespaces, self._names)
        ]
        return places

    def _needs(self, place: Place, changes: Kinds = frozenset()) -> list[Job]:
        """What has to be renewed in a namespace; ``changes``: as if these of its Secrets were written now."""
        jobs = []
        for service in place.services:
            if service.not_handled:
                continue
            pods = [pod for pod in service.pods if "deletionTimestamp" not in pod["metadata"]]
            aside = [pod for pod in pods if names.ASIDE_ANNOTATION in (pod["metadata"].get("annotations") or {})]
            stuck = [pod for pod in pods if pod not in aside and self._stuck(place, pod, changes)]
            old = [pod for pod in pods if pod not in aside + stuck and self._age(place, pod, changes) == "old"]
            job = Job(service, stuck, aside, old)
            if not (stuck or aside or old):
                job.late = not changes and self._late(place, service, pods)
            if job.pods or job.late:
                jobs.append(job)
        return jobs

    def _age(self, place: Place, pod: Object, changes: Kinds = frozenset()) -> str:
        """ "old", "new", "unknown", or "" for a pod that has no key."""
        variables = self._key.variables(place)
        now = secret.RUNTIME in changes
        changed = dict.fromkeys(variables, _now()) if now else secret.changed_at(place.runtime or {})
        found = set(secret.ages(pod, self._names.runtime, changed, variables))
        if "unknown" in found and all(name in changed for name in variables):
            return "old"  # of the very second of the change: rather once more than once too few
        return next((age for age in ("old", "unknown", "new") if age in found), "")

    def _stuck(self, place: Place, pod: Object, changes: Kinds) -> bool:
        """Whether the pod failed for want of a Secret that has changed since: it would pause for up to five minutes."""
        container = states.main_container(pod)
        reason = container.get("state", {}).get("waiting", {}).get("reason")
        made = str(pod["metadata"].get("creationTimestamp"))
        if reason == states.CRASH_REASON:  # each start reads the Secret anew
            made = str(container.get("lastState", {}).get("terminated", {}).get("startedAt") or made)
        elif reason not in states.PULL_REASONS | states.CONFIG_REASONS:
            return False
        return bool(changes) or made < self._written(place)

    def _written(self, place: Place) -> str:
        """When the Secrets got the values that they have."""
        times = [secret.changed_at(each or {}) for each in (place.pull, place.runtime)]
        return max((time for found in times for time in found.values()), default="")

    def _late(self, place: Place, service: KeyService, pods: Sequence[Object]) -> bool:
        """Whether a pod that was made since the change is not up yet: a run that was cut off may have renewed it."""
        young = [pod for pod in pods if str(pod["metadata"].get("creationTimestamp")) > self._written(place)]
        return len(young) > len(key_users.serving(young)) and not is_ready(self._client, service)

    # 2. is the key any good

    def _verify(self, places: Sequence[Place], change: bool) -> None:
        images = dict.fromkeys(
            str(container["image"])
            for place in places
            for service in place.services
            for container in key_users.containers(service.pod)
            if container.get("image") and self._opens(container)
        )
        self._progress(f"asking about the new key for {len(images)} image{'' if len(images) == 1 else 's'}")
        self._verdicts = self._asked(list(images))["images"]
        words = {each["verdict"] for each in self._verdicts}
        if not words & {"valid", *REFUSED}:  # no registry has judged the key, but the containers may need it
            self._ngcs_word = self._asked([])["key"]
        verdicts = [*self._verdicts, *([{"image": "NGC", **self._ngcs_word}] if self._ngcs_word else [])]
        bad = [each for each in verdicts if each["verdict"] in REFUSED]
        open_ = [each for each in verdicts if each["verdict"] not in (*REFUSED, *GOOD)]
        if bad:
            raise self._failure("The new key will not do, so nothing was changed.", bad)
        if open_ and change and not self._params["unverified"]:
            raise self._failure(
                "Whether the new key is valid could not be established, so nothing was changed. Try again later, or "
                "set unverified: true to go on without.",
                open_,
            )
        for each in open_:
            self._report.warnings.append(f"The key is not verified. {_words(each)}")

    def _asked(self, images: Sequence[str]) -> Object:
        params = {**self._params, "images": images}
        return key_info.run(params, check_mode=False, diff=False, progress=self._progress).data

    def _opens(self, container: Mapping[str, Any]) -> bool:
        """Whether the image comes from a registry that the new key, or a login given with it, opens."""
        host = str(container["image"]).partition("/")[0]
        return is_ngc(host) or host in self._key.logins

    def _failure(self, head: str, verdicts: Sequence[Object]) -> OpsError:
        self._jobs = []
        return OpsError("\n".join([head, *map(_words, verdicts)]), data=self._data, warnings=self._report.warnings)

    # 3. the Secrets

    def _try_out(self, planned: Mapping[str, Sequence[secret.Wanted]]) -> dict[str, Kinds]:
        """Which Secrets would change, by namespace.

        :raises OpsError: one can't be written; nothing was.
        """
        tried = Report(lambda line: None, True)
        failures = []
        for namespace, wanted in planned.items():
            for each in wanted:  # each for itself, so that all that is wrong is said at once
                try:
                    put(self._client, namespace, [each], "", self._params, True, tried)
                except (KubeError, OpsError) as error:
                    failures.append(str(error))
        if failures:
            raise OpsError("\n".join(["Nothing was changed.", *failures]))
        would: dict[str, Kinds] = {}
        for entry in tried.entries:
            if entry["action"] != "unchanged":
                would[entry["namespace"]] = would.get(entry["namespace"], frozenset()) | {entry["kind"]}
        return would

    def _write(self, planned: Mapping[str, Sequence[secret.Wanted]]) -> None:
        salt, failures = "", []
        for namespace, wanted in planned.items():
            try:
                salt = put(self._client, namespace, wanted, salt, self._params, self._check_mode, self._report)
            except (KubeError, OpsError) as error:
                failures.append(str(error))
        if failures:
            self._jobs = []
            raise self._unfinished("\n".join(failures))

    # 4. the pods

    def _renew(self) -> None:
        for job in self._jobs:
            if self._check_mode:
                self._renewer.plan(job)
                job.action = "renewed" if job.pods else "unchanged"
                self._progress(f"[{job.service}] would be renewed, {job.how}: {job.why}")
                continue
            try:
                self._renewer.renew(job)
            except OpsError as error:
                left = [str(each.service) for each in self._jobs if each.action == "not_reached"]
                rest = f" Not reached, and serving with the old key: {', '.join(left)}." if left else ""
                raise self._unfinished(
                    f"[{job.service}] {error}\nThe rotation stops here.{rest} Run it again."
                ) from None

    def _unfinished(self, message: str) -> OpsError:
        try:
            self._places = self._find()
        except (KubeError, OpsError):
            self._places = []
        return OpsError(
            message, data=self._data, changed=self._changed, diff=self._diffs, warnings=self._report.warnings
        )

    # 5. what arena left

    def _tidy(self) -> None:
        """Remove the one-click service's Jobs that have ended; without ``adopt`` only name them."""
        try:
            found = key_users.named(self._client, "batch/v1", "Job", self._namespaces, ARENA_JOB)
        except (KubeError, OpsError):  # a courtesy: it must not fail a rotation
            return
        for job in found:
            meta = job["metadata"]
            ended = next(
                (word for word in ("Complete", "Failed") if states.condition(job, word).get("status") == "True"), ""
            )
            if job["spec"]["template"]["spec"].get("serviceAccountName") != ARENA_ACCOUNT or not ended:
                continue
            action = "left"
            if self._params["adopt"]:
                change = ensure_absent(
                    self._client,
                    "batch/v1",
                    "Job",
                    meta["name"],
                    meta["namespace"],
                    check_mode=self._check_mode,
                    adopt=True,
                )
                action = change.action
                self._changes.append(change)
                self._progress(f"Job {meta['namespace']}/{meta['name']} ({ended.lower()}): {action}")
            self._tidied.append(
                {"namespace": meta["namespace"], "name": meta["name"], "ended": ended.lower(), "action": action}
            )

    # what is told

    def _warn(self) -> None:
        if not self._places:
            self._report.warnings.append(
                f"Nothing uses the key: no namespace has both of the Secrets {self._names.pull} and "
                f"{self._names.runtime}, and no InferenceService names one of them."
            )
        for each in self._not_handled:
            what = f"{each['kind']} {each['namespace']}/{each['name']}"
            self._report.warnings.append(f"{what} is not handled: {each['why']}. See to its pods yourself.")
        for place in self._places:
            for pod in place.others(self._names):
                if self._age(place, pod) == "old" and not self._check_mode:
                    what = f"Pod {place.name}/{pod['metadata']['name']} (of {key_users.maker(pod)})"
                    self._report.warnings.append(f"{what} still runs with another key; no service is its. Restart it.")

    @property
    def _changed(self) -> bool:
        renewed = any(job.renewed or (self._check_mode and job.pods) for job in self._jobs)
        return renewed or self._report.changed or any(change.changed for change in self._changes)

    @property
    def _diffs(self) -> list[Object]:
        return [*self._report.diff, *(each.diff for each in self._changes if each.changed)] if self._diff else []

    @property
    def _data(self) -> Object:
        entries = [
            {key: value for key, value in entry.items() if key != "pods_with_old_key"} for entry in self._report.entries
        ]
        proofs = [self._proof(place) for place in self._places]
        return {
            "verdicts": self._verdicts,
            "key": self._ngcs_word,
            "secrets": entries,
            "services": [job.data() for job in self._jobs],
            "namespaces": proofs,
            "not_handled": self._not_handled,
            "jobs": self._tidied,
            "done": bool(proofs) and all(proof["done"] for proof in proofs),
        }

    def _proof(self, place: Place) -> Object:
        """What a last look at a namespace shows."""
        ages = {str(pod["metadata"]["name"]): self._age(place, pod) for pod in place.pods}
        old = [name for name, age in ages.items() if age == "old"]
        unknown = [name for name, age in ages.items() if age == "unknown"]
        there = self._key.is_in(place)
        if not there:  # they all run with a key that is not the new one
            old = [str(pod["metadata"]["name"]) for pod in place.pods if self._age(place, pod, _BOTH)]
            unknown = []
        return {
            "namespace": place.name,
            "new_key": there,
            "fingerprint": secret.fingerprints(place.runtime).get("NGC_API_KEY"),
            "pods_with_old_key": old,
            "pods_unknown": unknown,
            "done": there and not old and not unknown,
        }


def _words(verdict: Object) -> str:
    head = f"{verdict['image']}: {verdict['verdict']}."
    return " ".join(text for text in (head, verdict["cause"], verdict["remedy"]) if text)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
