# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""A live local copy of some objects, kept by watching, through all that a busy, broken or restarting server does."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable

from .client import Backoff, Client, Objects, Response, api_path
from .errors import ConfigError, Forbidden, KindMissing, KubeError, Unauthorized, Unreachable, from_response

WATCH_SECONDS = 20  # the server ends a watch then, with a bookmark just before: silence for longer is a dead connection
SILENCE_SECONDS = WATCH_SECONDS + 5
SETTLE_SECONDS = 10  # a restarted server may answer 403 and 404 until it knows its roles and CRDs again

_FATAL = (ConfigError, Unauthorized)
_FATAL_UNLESS_SETTLING = (Forbidden, KindMissing)

Key = tuple[str, str]  # namespace and name
Group = Hashable


@dataclass(frozen=True)
class Query:
    """What to watch: a kind in a namespace (all of them when None), narrowed by label and field selectors."""

    api_version: str
    kind: str
    namespace: str | None
    labels: str = ""
    fields: str = ""


class Mirror:
    """Keeps what the queries select, one thread per query, between ``with`` and its end.

    ``group`` says what an object belongs to, so that ``changes`` and ``objects`` cost no more in a big namespace than
    in a small one. Only the thread that made the mirror may call ``wait`` and ``changes``.
    """

    def __init__(
        self,
        client: Client,
        queries: Iterable[Query],
        clock: Callable[[], float] = time.monotonic,
        group: Callable[[dict[str, Any]], Group] = lambda obj: None,
    ) -> None:
        self._clock = clock
        self._group = group
        self._changed = threading.Condition()
        self._news = True  # something to tell that ``wait`` has not told; the first news is that all is listed
        self._groups: set[Group] = set()  # what changed since ``changes`` was last asked
        self._fatal: Exception | None = None
        self._feeds = [_Feed(self, client, query) for query in queries]

    def __enter__(self) -> Mirror:
        for feed in self._feeds:
            feed.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; returns at once, though a connection attempt may still be dying in the background."""
        for feed in self._feeds:
            feed.stop()
        deadline = time.monotonic() + 0.1
        for feed in self._feeds:
            feed.join(max(0, deadline - time.monotonic()))

    def wait(self, timeout: float) -> bool:
        """True as soon as something changed since the last call, False after ``timeout`` seconds without.

        The first True comes when everything is listed. Raises what can't heal: Forbidden, KindMissing, Unauthorized,
        ConfigError.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if self._fatal:
                    raise self._fatal
                if self._news and all(feed.listed for feed in self._feeds):
                    self._news = False
                    return True
                rest = deadline - time.monotonic()
                if rest <= 0:
                    return False
                self._changed.wait(rest)

    def changes(self) -> set[Group]:
        """The groups in which an object came, changed or went since the last call."""
        with self._changed:
            groups, self._groups = self._groups, set()
        return groups

    def objects(self, kind: str, group: Group | None = None) -> Objects:
        """All of that kind, or of one group, by namespace and name. They are shared: don't change them."""
        with self._changed:
            found = {
                key: obj
                for feed in self._feeds
                if feed.query.kind == kind
                for key, obj in (feed.objects if group is None else feed.groups.get(group, {})).items()
            }
        return [found[key] for key in sorted(found)]

    def trouble(self) -> str | None:
        """Since when and why the server doesn't answer; None while all is well."""
        with self._changed:
            down = [feed.down for feed in self._feeds if feed.down]
        if not down:
            return None
        since, why = min(down)
        return f"the API server has not answered for {self._clock() - since:.0f} s: {why}"

    def listed(self, feed: _Feed, objects: Objects) -> None:
        """All that a feed holds from now on."""
        new = {_key(obj): obj for obj in objects}
        with self._changed:
            for key in feed.objects.keys() - new.keys():
                self._put(feed, key, None)
            for key, obj in new.items():
                self._put(feed, key, obj)
            feed.listed, feed.down = True, None
            self._changed.notify_all()

    def put(self, feed: _Feed, key: Key, obj: dict[str, Any] | None) -> None:
        """One object of a feed as it is now, None when it is gone; wakes ``wait`` if that is news."""
        with self._changed:
            self._put(feed, key, obj)
            self._changed.notify_all()

    def _put(self, feed: _Feed, key: Key, obj: dict[str, Any] | None) -> None:
        old = feed.objects.pop(key, None)
        if old:
            group = self._group(old)
            del feed.groups[group][key]
            if not feed.groups[group]:
                del feed.groups[group]
        if obj:
            feed.objects[key] = obj
            feed.groups[self._group(obj)][key] = obj
        if _version(old) != _version(obj):
            self._news = True
            self._groups.update(self._group(one) for one in (old, obj) if one)

    def up(self, feed: _Feed) -> None:
        with self._changed:
            feed.down = None

    def down(self, feed: _Feed, why: str) -> float:
        """Notes that a feed has no connection; returns for how many seconds."""
        with self._changed:
            feed.down = (feed.down[0], why) if feed.down else (self._clock(), why)
            return self._clock() - feed.down[0]

    def fail(self, error: Exception) -> None:
        with self._changed:
            self._fatal = self._fatal or error
            self._changed.notify_all()


class _Feed(threading.Thread):
    """The thread of one query. Its state belongs to the mirror and changes under the mirror's lock."""

    def __init__(self, mirror: Mirror, client: Client, query: Query) -> None:
        super().__init__(name=f"watch {query.kind}", daemon=True)
        self.query = query
        self.objects: dict[Key, dict[str, Any]] = {}
        self.groups: dict[Group, dict[Key, dict[str, Any]]] = defaultdict(dict)
        self.listed = False
        self.down: tuple[float, str] | None = None
        self._mirror = mirror
        self._client = client
        self._backoff = Backoff()
        self._ended = threading.Event()
        self._stream: Response | None = None
        self._version: str | None = None  # of the collection, to go on from; None: list anew

    def stop(self) -> None:
        self._ended.set()
        stream = self._stream
        if stream:
            stream.abort()

    def run(self) -> None:
        while not self._ended.is_set():
            pause = 0.0
            try:
                if self._version is None:
                    self._list()
                if not self._watch():  # a stream that ended at once, having said nothing: don't spin
                    pause = self._backoff.pause()
            except KubeError as error:
                if self._ended.is_set():
                    return
                if error.status == 410:
                    self._version = None
                else:
                    lasted = self._mirror.down(self, error.reason if isinstance(error, Unreachable) else error.message)
                    settled = not self.listed or lasted > SETTLE_SECONDS
                    if isinstance(error, _FATAL) or (isinstance(error, _FATAL_UNLESS_SETTLING) and settled):
                        self._mirror.fail(error)
                        return
                pause = self._backoff.pause(error.retry_after)
            except Exception as error:  # a fault of ours must end the wait, not hang it
                self._mirror.fail(error)
                return
            self._ended.wait(pause)

    def _list(self) -> None:
        q = self.query
        listing = self._client.list(q.api_version, q.kind, q.namespace, labels=q.labels, fields=q.fields, retry=False)
        self._mirror.listed(self, listing.items)
        self._version = listing.resource_version

    def _watch(self) -> bool:
        """Follows one stream to its end; whether it was of use."""
        q = self.query
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "resourceVersion": self._version or "",
        }
        query.update({k: v for k, v in (("labelSelector", q.labels), ("fieldSelector", q.fields)) if v})
        path = api_path(q.api_version, q.kind, q.namespace)
        try:
            stream = self._client.request("GET", path, query=query, stream=True, timeout=SILENCE_SECONDS, retry=False)
        except KubeError:
            self._version = None  # a server that was away may have lost or renumbered its history
            raise
        began, useful = time.monotonic(), False
        self._stream = stream
        try:
            if self._ended.is_set():
                return True
            self._mirror.up(self)
            for line in stream.lines():
                useful = True
                if not self._take(json.loads(line), path):
                    break
        finally:
            self._stream = None
            useful = useful or time.monotonic() - began > 1
            if useful:
                self._backoff.reset()
            stream.close()
        return useful

    def _take(self, event: dict[str, Any], path: str) -> bool:
        """Takes one event in; False when this stream is of no further use."""
        obj = event["object"]
        if event["type"] == "ERROR":
            raise from_response(obj.get("code", 500), json.dumps(obj).encode(), method="GET", path=path, headers={})
        version = obj["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            if _older(version, self._version):  # another history: a restored or replaced server
                self._version = None
                return False
        else:
            self._mirror.put(self, _key(obj), None if event["type"] == "DELETED" else obj)
        self._version = version
        return True


def _key(obj: dict[str, Any]) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _version(obj: dict[str, Any] | None) -> tuple[str, str] | None:
    return (obj["metadata"].get("uid", ""), obj["metadata"]["resourceVersion"]) if obj else None


def _older(version: str, than: str | None) -> bool:
    return version.isdigit() and (than or "").isdigit() and int(version) < int(than or "")
