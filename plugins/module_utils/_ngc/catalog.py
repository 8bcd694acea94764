# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""NGC's public catalog: which repositories an organisation has. No key is needed, and none is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from .caller import API
from .nearest import KNOWN
from .transport import Trouble, Web

PAGES = 10  # at most
PAGE = 1000  # repositories


class Catalog:
    """Asked once for each organisation, however many images are missing."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._lock = threading.Lock()
        self._known: dict[str, Sequence[str]] = {}

    def repositories(self, organisation: str) -> Sequence[str]:
        """All of them as ``organisation/team/name``; the best known ones where the catalog can't be asked."""
        with self._lock:
            if organisation not in self._known:
                try:
                    self._known[organisation] = list(self._ask(organisation)) or KNOWN
                except Trouble:
                    self._known[organisation] = KNOWN
            return self._known[organisation]

    def _ask(self, organisation: str) -> Iterator[str]:
        for page in range(PAGES):
            query = json.dumps({"query": f"orgName:{organisation}", "page": page, "pageSize": PAGE})
            reply = self._web.ask(API, "/v2/search/catalog/resources/CONTAINER", query=[("q", query)])
            said: Any = reply.data if reply.status == 200 and isinstance(reply.data, dict) else {}
            for group in said.get("results") or []:
                for resource in group.get("resources") or []:
                    yield str(resource.get("resourceId"))
            if page + 1 >= int(said.get("resultPageTotal") or 0):
                return
