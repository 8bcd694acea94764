# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. TOML, also for Python before 3.11, which has no tomllib: the part of it that runtimes' configurations use.
What this reader doesn't know it refuses, and never guesses."""

from __future__ import annotations

import json
import re
from typing import Any

BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
SPACE = re.compile(r"[ \t]*")
LINE_END = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)")
KEY = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+')
NUMBER = re.compile(r"[+-]?\d[\d_]*(?:\.[\d_]+)?(?:[eE][+-]?\d+)?(?![\w:.-])")


class TomlError(ValueError):
    """Not TOML, or a part of it that is not known here."""


def loads(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:
        return _Reader(text).document()
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TomlError(str(error)) from error


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def document(self) -> dict[str, Any]:
        top: dict[str, Any] = {}
        table = top
        self._skip(BLANK)
        while self.at < len(self.text):
            if self._take("[["):
                raise self._error("an array of tables")
            if self._take("["):
                table = self._table(top, self._key())
                self._expect("]")
            else:
                self._entry(table)
            if not LINE_END.match(self.text, self.at):
                raise self._error("more than one thing on a line")
            self._skip(BLANK)
        return top

    def _entry(self, table: dict[str, Any]) -> None:
        *parents, name = self._key()
        self._expect("=")
        target = self._table(table, parents)
        if name in target:
            raise self._error(f"{name} for the second time")
        self._skip(SPACE)
        target[name] = self._value()

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(SPACE)
            match = KEY.match(self.text, self.at)
            if not match:
                raise self._error("no key")
            self.at = match.end()
            parts.append(self._unquoted(match[0]))
            self._skip(SPACE)
            if not self._take("."):
                return parts

    def _value(self) -> Any:
        if self.text.startswith(('"""', "'''"), self.at):
            raise self._error("a text over several lines")
        if self.text[self.at : self.at + 1] in ('"', "'"):
            match = KEY.match(self.text, self.at)
            if not match:
                raise self._error("a text without its end")
            self.at = match.end()
            return self._unquoted(match[0])
        for word, value in (("true", True), ("false", False)):
            if self._take(word):
                return value
        if self._take("["):
            return self._array()
        if self._take("{"):
            return self._inline_table()
        match = NUMBER.match(self.text, self.at)
        if not match:
            raise self._error("a kind of value that is not known here")
        self.at = match.end()
        digits = match[0].replace("_", "")
        return int(digits) if digits.lstrip("+-").isdigit() else float(digits)

    def _array(self) -> list[Any]:
        items: list[Any] = []
        self._skip(BLANK)
        while not self._take("]"):
            items.append(self._value())
            self._skip(BLANK)
            if not self._take(",") and not self.text.startswith("]", self.at):
                raise self._error("an array without its end")
            self._skip(BLANK)
        return items

    def _inline_table(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        self._skip(SPACE)
        while not self._take("}"):
            self._entry(table)
            self._skip(SPACE)
            if not self._take(",") and not self.text.startswith("}", self.at):
                raise self._error("a table without its end")
            self._skip(SPACE)
        return table

    def _table(self, table: dict[str, Any], names: list[str]) -> dict[str, Any]:
        for name in names:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise self._error(f"{name} as a value and as a table")
        return table

    def _unquoted(self, text: str) -> str:
        if text.startswith("'"):
            return text[1:-1]
        if not text.startswith('"'):
            return text
        try:
            return str(json.loads(text))
        except ValueError:
            raise self._error("an escape that is not known here") from None

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _take(self, text: str) -> bool:
        found = self.text.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def _expect(self, text: str) -> None:
        self._skip(SPACE)
        if not self._take(text):
            raise self._error(f"no {text}")

    def _error(self, what: str) -> TomlError:
        return TomlError(f"{what} (line {self.text.count(chr(10), 0, self.at) + 1})")
