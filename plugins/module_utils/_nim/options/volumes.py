# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Options that mount something into NIM's container."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import quantity
from ..names import CA_VOLUME, CACHE_VOLUME, FILES_VOLUME, SHM_VOLUME, TRUST_VOLUME
from .check import DNS_LABEL, Check

TRUST_FOLDER = "/opt/nim-trust"
TRUST_BUNDLE = f"{TRUST_FOLDER}/ca-bundle.crt"
STORAGE_PATH = "/mnt/models"  # where KServe mounts what storage_uri names

_OURS = (CACHE_VOLUME, SHM_VOLUME, FILES_VOLUME, CA_VOLUME, TRUST_VOLUME)
_MOST_IN_A_CONFIG_MAP = 2**20
_FILE_KEY = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Cache:
    """A claim for the model files. With ``size`` the claim is made when it is missing."""

    claim: str
    path: str
    size: str | None
    storage_class: str | None
    access_modes: tuple[str, ...]
    sub_path: str | None = None


@dataclass(frozen=True)
class Mount:
    """One place in the container. ``source`` is that of the volume, and the same for the same ``volume``."""

    option: str
    volume: str
    source: Mapping[str, Any]
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)  # subPath, readOnly...


@dataclass(frozen=True)
class File:
    key: str  # in the ConfigMap
    path: str
    content: str


@dataclass(frozen=True)
class CaBundle:
    """``kind``: ``configMap`` or ``secret``."""

    kind: str
    name: str
    key: str


def cache(check: Check, env: Mapping[str, str]) -> Cache | None:
    raw = check.params.get("cache")
    if not raw:
        return None
    claim, size = check.name("cache.claim", raw.get("claim"), "a claim"), raw.get("size")
    path = check.path("cache.path", raw.get("path"), STORAGE_PATH)
    if size:
        try:
            if quantity.parse(size) < 2**30:
                check.bad("cache.size", f"{size} is less than any model; for example 100Gi")
        except ValueError:
            check.bad("cache.size", f"{size!r} is not a quantity; for example 100Gi")
    elif raw.get("storage_class"):
        check.bad(
            "cache.storage_class",
            "says how to make the claim, so it needs cache.size; without a size the claim must exist already",
        )
    wanted = env.get("NIM_CACHE_PATH")
    if wanted is not None and wanted != path and not wanted.startswith(path.rstrip("/") + "/"):
        check.bad(
            "cache.path",
            (
                f"is {path}, but env.NIM_CACHE_PATH is {wanted}: NIM would not use the claim; leave "
                f"NIM_CACHE_PATH out or put it below {path}"
            ),
        )
    return Cache(
        claim,
        path,
        str(size) if size else None,
        raw.get("storage_class") or None,
        tuple(raw.get("access_modes") or ("ReadWriteOnce",)),
        _inside(check, "cache.sub_path", raw.get("sub_path")),
    )


def _inside(check: Check, option: str, value: Any) -> str | None:
    """A path inside a volume."""
    if not value:
        return None
    if str(value).startswith("/") or ".." in str(value).split("/"):
        check.bad(option, f"{value!r} is not a path inside a volume: relative, without '..'; for example llama3/8b")
    return str(value)


# -- data and temp_dirs


def mounts(check: Check) -> tuple[Mount, ...]:
    """Return the mounts of ``data`` and ``temp_dirs``, in this order."""
    found = [_data(check, f"data[{number}]", raw) for number, raw in enumerate(check.params.get("data") or ())]
    found += [
        _temp_dir(check, f"temp_dirs[{number}]", raw) for number, raw in enumerate(check.params.get("temp_dirs") or ())
    ]
    made = tuple(mount for mount in found if mount)
    sources: dict[str, Mapping[str, Any]] = {}
    for mount in made:
        if sources.setdefault(mount.volume, mount.source) != mount.source:
            check.bad(mount.option, f"{mount.volume} is already the name of another volume; each has its own")
    return made


def _fields(check: Check, where: str, raw: Any, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """Return an entry's fields; a text is arena's short form of the first and the second."""
    first, second = keys[:2]
    if isinstance(raw, str):
        name, colon, path = raw.partition(":")
        if not (name and colon and path):
            check.bad(where, f"{raw!r} must be {first.upper()}:/{second.upper()}, or a dictionary of {', '.join(keys)}")
            return None
        return {first: name, second: path}
    if not isinstance(raw, Mapping):
        check.bad(where, f"must be {first.upper()}:/{second.upper()} or a dictionary of {', '.join(keys)}")
        return None
    return dict(raw) if check.only(where, raw, keys) else None


def _data(check: Check, where: str, raw: Any) -> Mount | None:
    given = _fields(check, where, raw, ("claim", "path", "sub_path", "sub_path_expr", "read_only"))
    if given is None:
        return None
    claim = check.name(f"{where}.claim", given.get("claim"), "a claim")
    path = check.path(f"{where}.path", given.get("path"), "/data")
    options: dict[str, Any] = {}
    if sub_path := _inside(check, f"{where}.sub_path", given.get("sub_path")):
        options["subPath"] = sub_path
    if expression := _inside(check, f"{where}.sub_path_expr", given.get("sub_path_expr")):
        options["subPathExpr"] = expression
        if sub_path:
            check.bad(where, "sub_path and sub_path_expr exclude each other; the second may hold $(VARIABLES)")
    if not isinstance(given.get("read_only", False), bool):
        check.bad(f"{where}.read_only", f"must be true or false, is {given['read_only']!r}")
    elif given.get("read_only"):
        options["readOnly"] = True
    volume = claim.replace(".", "-")[:63].rstrip("-")  # like the claim, as arena has it
    if volume in _OURS:
        volume = f"data-{volume}"
    return Mount(where, volume, {"persistentVolumeClaim": {"claimName": claim}}, path, options)


def _temp_dir(check: Check, where: str, raw: Any) -> Mount | None:
    given = _fields(check, where, raw, ("name", "path", "size", "medium"))
    if given is None:
        return None
    name, source = str(given.get("name") or ""), {}
    if not DNS_LABEL.fullmatch(name):
        check.bad(f"{where}.name", f"{name!r} is not a volume's name: at most 63 lower-case letters, digits and '-'")
    elif name in _OURS:
        check.bad(f"{where}.name", f"{name} is a volume that other options make; take another name")
    path = check.path(f"{where}.path", given.get("path"), "/scratch")
    if given.get("medium") not in (None, "", "Memory"):
        check.bad(f"{where}.medium", f"{given['medium']!r} is not known; Memory, or leave it out for the node's disk")
    elif given.get("medium"):
        source["medium"] = "Memory"
    if given.get("size") is not None:
        check.quantity(f"{where}.size", given["size"])
        source["sizeLimit"] = str(given["size"])
    return Mount(where, name, {"emptyDir": source}, path)


# -- files and certificates


def files(check: Check) -> tuple[File, ...]:
    """Return the files that a ConfigMap of our own holds."""
    found: list[File] = []
    for number, raw in enumerate(check.params.get("config_files") or ()):
        where = f"config_files[{number}]"
        if not isinstance(raw, Mapping):
            check.bad(
                where,
                f"{raw!r} must be a dictionary of path and content; the content of a file beside the playbook is "
                "\"{{ lookup('ansible.builtin.file', 'NAME') }}\"",
            )
            continue
        if not check.only(where, raw, ("path", "content")):
            continue
        path = check.path(f"{where}.path", raw.get("path"), "/etc/nim/extra.yaml")
        if path.endswith("/"):
            check.bad(f"{where}.path", f"{path!r} is a folder; the path of the file itself is needed")
        key = _FILE_KEY.sub("-", path.strip("/").replace("/", "."))[-253:]
        if key in (file.key for file in found):
            check.bad(f"{where}.path", f"{path} is given twice, or another is the same with '.' in place of '/'")
        found.append(File(key, path, check.text(where, "content", raw.get("content"))))
    total = sum(len(file.content.encode()) for file in found)
    if total > _MOST_IN_A_CONFIG_MAP:
        check.bad("config_files", f"are {total} bytes together; a ConfigMap holds 1 MiB. Put them on a claim, see data")
    return tuple(found)


def digest(files: Sequence[File]) -> str:
    """A mark of what the files hold, for the pods: only a change of it restarts them."""
    marks = hashlib.sha256()
    for file in files:
        marks.update(f"{len(file.path)} {file.path} {len(file.content)} {file.content}".encode())
    return marks.hexdigest()[:16]


def ca_bundle(check: Check) -> CaBundle | None:
    given = check.params.get("ca_bundle")
    if not given:
        return None
    named = [option for option in ("config_map", "secret") if given.get(option)]
    if len(named) != 1:
        check.bad("ca_bundle", f"needs config_map or secret, {'not both' if named else 'where the certificates are'}")
        return None
    if check.params.get("model_format") and not check.params.get("image"):
        check.bad("ca_bundle", "needs image: a container of that image puts the certificates together")
    kind = "configMap" if named[0] == "config_map" else "secret"
    name = check.name(f"ca_bundle.{named[0]}", given[named[0]])
    key = str(given.get("key") or "")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", key):
        check.bad("ca_bundle.key", f"{key!r} is not a key: letters, digits, '-', '_' and '.'; for example ca.crt")
    return CaBundle(kind, name, key)


def places(check: Check, taken: Sequence[tuple[str, str]]) -> None:
    """Refuse two things in one place. ``taken``: (option, path)."""
    seen: dict[str, str] = {}
    for option, path in taken:
        place = posixpath.normpath(path) if path else ""
        if place and seen.setdefault(place, option) != option:
            check.bad(option, f"{path} is where {seen[place]} is mounted already; each needs a path of its own")
