# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Many lists at once, each asked for once; what may not be read is noted and does not end the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    Forbidden,
    KindMissing,
    KubeError,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Query

AT_ONCE = 8  # requests under way; an API server's fair share for one user is more
SECONDS = 10.0  # for each question about the surroundings: an answer without them is better than none

Objects = list[dict[str, Any]]


class Reader:
    """``denied``: what was not looked at and why, in words; ``missing``: kinds that the cluster doesn't know."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.denied: dict[str, None] = {}  # in the order of the questions
        self.missing: set[str] = set()
        self._known: dict[Query, Objects | None] = {}

    def read(self, queries: Iterable[Query], *, metadata_only: bool = False, patient: bool = False) -> None:
        """Ask for what is not known yet.

        :param patient: wait for a server that is busy, and raise KubeError when it does not answer. Else that is noted.
        """
        new = [query for query in dict.fromkeys(queries) if query not in self._known]
        if not new:
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for query, found in zip(new, pool.map(lambda each: self._ask(each, metadata_only, patient), new)):
                self._known[query] = found if isinstance(found, list) else None
                if isinstance(found, str):
                    self.denied[found] = None

    def get(self, query: Query) -> Objects | None:
        """What the cluster has; ``None`` where it may not be read. What all namespaces have holds for each of them."""
        everywhere = replace(query, namespace=None)
        if query.namespace and query not in self._known and everywhere in self._known:
            found = self._known[everywhere]
            return found and [obj for obj in found if obj["metadata"]["namespace"] == query.namespace]
        self.read([query])
        return self._known[query]

    def now(self) -> datetime:
        """The API server's clock, to which all times in the cluster belong; this machine's where it does not say."""
        try:
            answer = self.client.request("GET", "/version")
            return parsedate_to_datetime(answer.headers["Date"])
        except (Forbidden, KeyError, ValueError):
            return datetime.now(timezone.utc)

    def log(self, namespace: str, pod: str, options: Mapping[str, str]) -> str:
        """The end of a container's log; empty where it can't be had, which is noted."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        try:
            answer = self.client.request("GET", path, query=options, retry=False, timeout=SECONDS)
        except Forbidden:
            self.denied[f"logs in namespace {namespace}: no right to read pods/log"] = None
        except Unreachable:
            self.denied[f"the log of pod {namespace}/{pod}: no answer in {SECONDS:.0f} s"] = None
        except KubeError:  # the container is gone, or has not begun: what the pod's status says is all there is
            pass
        else:
            return answer.body.decode(errors="replace")
        return ""

    def _ask(self, query: Query, metadata_only: bool, patient: bool) -> Objects | str:
        """The objects, or in words why not."""
        what = f"{query.kind} objects" + (f" of namespace {query.namespace}" if query.namespace else "")
        try:
            return self.client.list(
                query.api_version,
                query.kind,
                query.namespace,
                labels=query.labels,
                fields=query.fields,
                metadata_only=metadata_only,
                retry=patient,
                timeout=None if patient else SECONDS,
            ).items
        except KindMissing:
            self.missing.add(query.kind)
            return []
        except Forbidden:
            return f"{what}: no right to list them"
        except Unreachable as error:
            if patient:
                raise
            return f"{what}: the API server did not answer ({error.message})"
