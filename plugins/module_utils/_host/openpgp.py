# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The fingerprints of the public keys in a file, so that no gpg has to be installed for it anywhere."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

_BEGIN = b"-----BEGIN"
# strictly: of a looser text another program might read other keys than we do
_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[A-Za-z]+:[^\r\n]*\r?\n)*\r?\n"
    rb"((?:[A-Za-z0-9+/=]+\r?\n)+)-----END PGP PUBLIC KEY BLOCK-----\s*"
)
_PUBLIC_KEY = 6


class NotAKey(ValueError):
    """The content is no OpenPGP public key."""


def mismatch(content: bytes, wanted: str) -> str:
    """What keeps the content from being the wanted key and no other; empty when it is. Subkeys belong to their key."""
    try:
        found = fingerprints(content)
    except NotAKey as error:
        return f"is not a key: {error}"
    expected = re.sub(r"\s", "", wanted).upper()
    if set(found) == {expected}:
        return ""
    if expected in found:
        others = ", ".join(sorted(set(found) - {expected}))
        return f"holds other keys beside the wanted one, and packages signed with them would be trusted, too: {others}"
    return f"has the fingerprint {', '.join(found)}, and {expected} is wanted"


def fingerprints(content: bytes) -> list[str]:
    """Of the primary keys, in upper case. The content is armored or binary; keys of version 4, as all are today."""
    found = []
    for tag, body in _packets(_binary(content)):
        if tag == _PUBLIC_KEY:
            if body[:1] != b"\x04":
                raise NotAKey(f"it holds a key of version {body[0] if body else '?'}, and only 4 is known here")
            whole = b"\x99" + len(body).to_bytes(2, "big") + body
            found.append(hashlib.sha1(whole, usedforsecurity=False).hexdigest().upper())
    if not found:
        raise NotAKey("it holds no OpenPGP public key")
    return found


def _binary(content: bytes) -> bytes:
    if _BEGIN not in content:
        return content
    text, blocks = content.strip(), []
    while text:
        block = _BLOCK.match(text)
        if block is None:
            raise NotAKey("its armor is damaged, or something stands beside it")
        blocks.append(_body(block[1]))
        text = text[block.end() :]
    return b"".join(blocks)


def _body(block: bytes) -> bytes:
    """Without the checksum."""
    lines = block.split()
    try:
        return base64.b64decode(b"".join(lines[:-1] if lines[-1].startswith(b"=") else lines), validate=True)
    except binascii.Error:
        raise NotAKey("its armor is damaged") from None


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each (RFC 9580, 4.2)."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise NotAKey("it is no OpenPGP data")
        if head & 0x40:
            tag, (length, size) = head & 0x3F, _new_length(data, at + 1)
        else:
            size = (1, 2, 4, 0)[head & 3]
            tag, length = (head >> 2) & 0xF, int.from_bytes(data[at + 1 : at + 1 + size], "big")
        start = at + 1 + size
        if not size or start + length > len(data):
            raise NotAKey("it is cut off")
        yield tag, data[start : start + length]
        at = start + length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at] if at < len(data) else 255
    if first < 192:
        return first, 1
    if first < 224:
        return ((first - 192) << 8) + int.from_bytes(data[at + 1 : at + 2], "big") + 192, 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), 5
    raise NotAKey("it holds a packet in parts, which no key has")
