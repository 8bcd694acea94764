# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What NGC itself says about a key: its kind, whether it is good, whose it is. Asked once, whatever the images."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Optional

from .key import WHERE
from .transport import Reply, Trouble, Web
from .verdict import Evidence, Judgement, KeyInfo

API = "api.ngc.nvidia.com"
AUTHN = "authn.nvidia.com"
NEW_KEY = "Make a new one and set ngc_api_key, or the variable NGC_API_KEY, to it: " + WHERE + "."

# what a legacy key is base64 of: 26 letters and digits, a colon, a UUID
_LEGACY = re.compile(rb"[a-z0-9]{26}:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TYPES = {"PERSONAL_KEY": "personal", "SERVICE_KEY": "service"}


def shape(key: str) -> str:
    """``nvapi`` (personal or service), ``legacy`` or ``unknown``, by the key's looks."""
    if key.startswith("nvapi-"):
        return "nvapi"
    try:
        return "legacy" if _LEGACY.fullmatch(base64.b64decode(key, validate=True)) else "unknown"
    except (binascii.Error, ValueError):
        return "unknown"


def about(web: Web, key: str) -> KeyInfo:
    """What NGC says about the key. Trouble is an answer, too: its own verdict, never that of a bad key."""
    kind = "legacy" if shape(key) == "legacy" else "unknown"
    try:
        return _legacy(web, key) if kind == "legacy" else _caller_info(web, key)
    except Trouble as trouble:
        said = trouble.judgement
        return KeyInfo(said.verdict, said.cause, said.remedy, kind=kind, evidence=(trouble.evidence,))


def refused(status: int, said: str) -> Judgement:
    """What NGC's key services mean when they don't take a key."""
    if status != 401:
        cause = f"NGC's key service answers {status} ({said}), which says nothing about the key."
        return Judgement("unknown", cause, "Try again later.")
    if re.search(r"\bexpired?\b", said, re.I):
        return Judgement("expired", "NGC says that this key has expired.", NEW_KEY)
    return Judgement("invalid", "NGC does not know this key: it is wrong, expired or revoked.", NEW_KEY)


def _caller_info(web: Web, key: str) -> KeyInfo:
    reply = web.ask(
        API,
        "/v3/keys/get-caller-info",
        method="POST",
        headers={"Authorization": f"Bearer {key}"},
        form={"credentials": key},
        follow=False,  # the form would go along, wherever that is
    )
    said = reply.data if isinstance(reply.data, dict) else {}
    kind = _TYPES.get(str(said.get("type")), "unknown")
    if reply.status != 200:
        return _info(refused(reply.status, reply.evidence.said), kind, [reply.evidence])
    status = said.get("requestStatus")
    if isinstance(status, dict) and status.get("statusCode") not in (None, "SUCCESS"):
        return _info(refused(reply.status, str(status["statusCode"])), kind, [reply.evidence])
    products = said.get("products")
    return _info(
        Judgement("valid", "NGC knows this key."),
        kind,
        [reply.evidence],
        str(said.get("orgName") or ""),
        tuple(map(str, products)) if isinstance(products, list) else None,
    )


def _legacy(web: Web, key: str) -> KeyInfo:
    reply = web.ask(
        AUTHN, "/token", headers={"Authorization": f"ApiKey {key}"}, query=[("service", "ngc")], follow=False
    )
    token = reply.data.get("token") if isinstance(reply.data, dict) else None
    if reply.status != 200 or not token:
        return _info(refused(reply.status, reply.evidence.said), "legacy", [reply.evidence])
    evidence, organisation = [reply.evidence], ""
    try:
        listed = web.ask(API, "/v2/org", headers={"Authorization": f"Bearer {token}"})
        evidence.append(listed.evidence)
        organisation = _organisation(listed)
    except Trouble as trouble:  # the key is good all the same
        evidence.append(trouble.evidence)
    return _info(Judgement("valid", "NGC knows this key."), "legacy", evidence, organisation)


def _organisation(reply: Reply) -> str:
    listed = reply.data.get("organizations") if isinstance(reply.data, dict) else None
    first: Any = listed[0] if isinstance(listed, list) and listed else {}
    return str(first.get("name") or "") if isinstance(first, dict) else ""


def _info(
    said: Judgement,
    kind: str,
    evidence: Sequence[Evidence],
    organisation: str = "",
    products: Optional[tuple[str, ...]] = None,
) -> KeyInfo:
    return KeyInfo(said.verdict, said.cause, said.remedy, kind, organisation, products, tuple(evidence))
