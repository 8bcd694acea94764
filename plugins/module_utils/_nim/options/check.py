# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Reading options of one kind, whatever they are for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from .. import contract, quantity
from ..names import MODE_ANNOTATION, PREFIX, SCALER_ANNOTATION, STOP_ANNOTATION

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

_RESERVED = {  # keys of labels and annotations that an option or KServe itself sets
    MODE_ANNOTATION: "set the option deployment_mode instead",
    SCALER_ANNOTATION: "set the option autoscaler_class instead",
    STOP_ANNOTATION: "use state: stopped instead",
    "serving.kserve.io/enable-prometheus-scraping": (
        "it names a port that only Knative has; set the option enable_prometheus instead"
    ),
    "serving.kserve.io/inferenceservice": "KServe sets it itself",
    "component": "KServe sets it itself",
    "app.kubernetes.io/managed-by": "it marks what this collection made",
}


class BadSpec(Exception):
    """``errors`` holds one (option, what is wrong and what would be right) for each bad option."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{option}: {text}" for option, text in errors))
        self.errors = tuple(errors)


class Check:
    """Collects what is wrong while it reads, so that a person has to correct an entry only once."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.errors: list[tuple[str, str]] = []
        self.warnings: list[str] = []

    def bad(self, option: str, text: str) -> None:
        self.errors.append((option, text))

    def finish(self) -> None:
        """Raise BadSpec if anything was bad."""
        if self.errors:
            raise BadSpec(self.errors)

    def number(self, option: str, least: int) -> int:
        value = int(self.params[option])
        if value < least:
            self.bad(option, f"is {value}, must be {least} or more")
        return value

    def number_or(self, option: str, least: int, default: int) -> int:
        return default if self.params.get(option) is None else self.number(option, least)

    def port(self, option: str, default: int) -> int:
        value = self.params.get(option)
        if value is None:
            return default
        value = int(value)
        if not 1 <= value <= 65535:
            self.bad(option, f"{value} is not a port; 1 to 65535, NIM's own is {contract.CONTAINER_PORT}")
        return value

    def name(self, option: str, value: Any, what: str = "an object") -> str:
        name = str(value or "")
        if not SUBDOMAIN.fullmatch(name):
            self.bad(option, f"{name!r} is not {what}'s name: lower-case letters, digits, '-' and '.'")
        return name

    def name_or_none(self, option: str) -> str | None:
        value = self.params.get(option)
        return self.name(option, value) if value else None

    def names(self, option: str) -> tuple[str, ...]:
        values = (str(value) for value in self.params.get(option) or () if value)
        return tuple(self.name(option, value) for value in dict.fromkeys(values))

    def path(self, option: str, value: Any, example: str) -> str:
        """An absolute path inside the container, for a volume or a file."""
        path = str(value or "")
        if not path.startswith("/") or ":" in path or ".." in path.split("/") or path.rstrip("/") in SYSTEM_FOLDERS:
            self.bad(option, f"{path!r} is not a place for it; an absolute path of its own, such as {example}")
        return path

    def only(self, option: str, given: Mapping[str, Any], known: tuple[str, ...]) -> bool:
        """Whether a dictionary has nothing but the ``known`` keys."""
        unknown = sorted(str(key) for key in given if key not in known)
        if unknown:
            self.bad(option, f"has no field {unknown[0]!r}; {', '.join(known)}")
        return not unknown

    def text(self, option: str, key: str, value: Any) -> str:
        """A value that Kubernetes wants as a string. YAML's true and 8 are meant as their texts."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None or isinstance(value, (Mapping, list, tuple)):
            found = "nothing" if value is None else "a dictionary" if isinstance(value, Mapping) else "a list"
            self.bad(
                f"{option}.{key}",
                f"must be a string, is {found}"
                + ("" if value is None else "; to pass it as JSON use the filter to_json"),
            )
            return ""
        return str(value)

    def metadata(self, option: str) -> dict[str, str]:
        """Labels, annotations or what selects by them."""
        values = {}
        for key, raw in (self.params.get(option) or {}).items():
            value = values[str(key)] = self.text(option, key, raw)
            if not QUALIFIED.fullmatch(str(key)):
                self.bad(
                    option,
                    (
                        f"{key!r} is not a valid key: [prefix/]name of letters, digits, '-', '_' and '.', the "
                        "name at most 63 characters"
                    ),
                )
            elif option != "node_selector" and key in _RESERVED:
                self.bad(option, f"{key} can't be set here: {_RESERVED[key]}")
            elif option != "node_selector" and str(key).startswith(PREFIX):
                self.bad(option, f"{key} can't be set here: {PREFIX} belongs to this collection")
            if option != "annotations":
                self.label_value(f"{option}.{key}", value)
        return values

    def label_value(self, option: str, value: str) -> str:
        if not LABEL_VALUE.fullmatch(value):
            self.bad(
                option,
                (
                    f"{value!r} is not a valid value: at most 63 letters, digits, '-', '_' and '.', with "
                    "a letter or digit at both ends"
                ),
            )
        return value

    def resource(self, option: str, value: Any) -> str:
        """The name of an extended resource."""
        name = str(value)
        if not QUALIFIED.fullmatch(name) or "/" not in name:
            self.bad(
                option,
                f"{name!r} is not the name of an extended resource, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb",
            )
        return name

    def quantity(self, option: str, value: Any) -> Decimal | None:
        """CPU for the option of that name, else bytes; ``None`` if it is bad."""
        try:
            size = quantity.parse(value)
        except ValueError:
            fixed = re.sub(r"(?i)\s*([kmgt])i?b?$", lambda m: m[1].upper() + "i", str(value))
            right = (
                "for example 8 or 500m"
                if option == "cpu"
                else f"for example {fixed if fixed != value and _is_quantity(fixed) else '32Gi'}"
            )
            self.bad(option, f"{value!r} is not a quantity; {right}")
            return None
        if size <= 0:
            self.bad(option, f"is {value}, must be more than 0")
            return None
        if option == "cpu":
            if size > 4096:
                self.bad(option, f"{value} is {size:f} cores; CPU is counted in cores, for example 8 or 500m")
                return None
        elif size < 2**20:
            self.bad(option, f"{value} is {size:f} bytes; write the unit, for example {str(value).rstrip('m')}Gi")
            return None
        return size


SYSTEM_FOLDERS = ("", "/bin", "/dev", "/dev/shm", "/etc", "/lib", "/proc", "/sys", "/usr")


def _is_quantity(text: str) -> bool:
    try:
        return quantity.parse(text) > 0
    except ValueError:
        return False
