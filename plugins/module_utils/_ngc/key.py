# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""An NGC key as typed by people: strip what editors add, refuse what can't be a key."""

from __future__ import annotations

import re

MIN_LENGTH = 20
WHERE = "a key comes from https://org.ngc.nvidia.com/setup/api-keys and starts with 'nvapi-'"

# Texts that examples and templates leave behind. Matched on the whole stripped value, case-insensitively.
_PLACEHOLDERS = (
    (re.compile(r"<.*>", re.S), "is a placeholder in angle brackets"),
    (re.compile(r".*(\{\{|\{%).*", re.S), "is a template that was never filled in"),
    (re.compile(r"\$[({]?\w+[)}]?"), "is the name of a shell variable, not its value"),
    (re.compile(r"(nvapi-)?[.…*x_-]+", re.I), "is a placeholder"),
    (
        re.compile(
            (
                r"(nvapi-)?(your|my|insert|enter|put|paste|add|example|dummy|change[-_ ]?me"
                r"|replace[-_ ]?me|todo|none|null|secret|key|api[-_ ]?key|ngc[-_ ]?api[-_ ]?key)\b.*"
            ),
            re.I | re.S,
        ),
        "is a placeholder",
    ),
)


class BadKey(Exception):
    """The value can't be a key. ``message`` names the option and never holds the value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def clean(key: str | None, option: str = "ngc_api_key") -> str:
    """Return ``key`` without the white space around it (a newline at its end breaks NIM's download).

    :param key: the value as given; ``option`` is the name to use in messages.
    :raises BadKey: missing, a placeholder, too short, or with white space or control characters inside.
    """
    text = (key or "").strip()
    if not text:
        raise BadKey(f"{option}: no key was given; {WHERE}.")
    for pattern, why in _PLACEHOLDERS:
        if pattern.fullmatch(text):
            raise BadKey(f"{option}: the value {why}; {WHERE}.")
    if re.search(r"\s", text):
        raise BadKey(
            f"{option}: the value has white space inside, so it is more than one word or was cut "
            f"by a line break; {WHERE}."
        )
    if not (text.isascii() and text.isprintable()):
        raise BadKey(
            f"{option}: the value has characters that no key has (control or non-ASCII "
            f"characters); copy it again: {WHERE}."
        )
    if len(text) < MIN_LENGTH:
        raise BadKey(f"{option}: the value has {len(text)} characters, a key has at least {MIN_LENGTH}; {WHERE}.")
    return text
