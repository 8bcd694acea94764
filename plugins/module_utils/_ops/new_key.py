# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What the two Secrets of a namespace become with a new key: the key is put in the old one's places, the rest stays."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import is_ours
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey
from ansible_collections.gpuops.nim.plugins.module_utils._nim.manifests import pull_secret, runtime_secret
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_users import Names, Place
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError
from ansible_collections.gpuops.nim.plugins.module_utils._ops.secret import PULL, RUNTIME, Wanted

Object = dict[str, Any]
NGC, USER = "nvcr.io", "$oauthtoken"
VARIABLE = "NGC_API_KEY"
_CONFIG = ".dockerconfigjson"


@dataclass(frozen=True, repr=False)
class Login:
    user: str
    password: str


@dataclass(frozen=True, repr=False)
class NewKey:
    """The key, and the logins of other registries that are to be set with it, by host."""

    key: str
    logins: Mapping[str, Login]

    def wanted(self, place: Place, used: Names) -> list[Wanted]:
        """The Secrets of the namespace that are not yet as they should be.

        What others made and edited by hand to what it should be is left theirs.
        """
        old = self._old(place)
        logins, values = self._logins(place, old), self._values(place, old)
        auths = [(host, login.user, login.password) for host, login in logins.items()]
        pull, runtime, found = used.pull, used.runtime, []
        if place.pull is None or is_ours(place.pull) or logins != logins_of(place.pull):
            main = next((host for host in logins if is_ngc(host)), next(iter(logins), ""))
            found.append(Wanted(PULL, pull, main, lambda ns, salt: pull_secret(pull, ns, auths, salt)))
        if place.runtime is None or is_ours(place.runtime) or values != _data(place.runtime):
            found.append(Wanted(RUNTIME, runtime, VARIABLE, lambda ns, salt: _runtime(runtime, ns, values, salt)))
        return found

    def is_in(self, place: Place) -> bool:
        """Both Secrets are there, and neither holds another key of NGC."""
        old = self._old(place)
        if place.pull is None or place.runtime is None:
            return False
        return self._logins(place, old) == logins_of(place.pull) and self._values(place, old) == _data(place.runtime)

    def variables(self, place: Place) -> list[str]:
        """The variables of the runtime secret that hold the key, or are to."""
        mine = self.key.encode()
        return [name for name, value in self._values(place, self._old(place)).items() if value == mine]

    def _old(self, place: Place) -> set[bytes]:
        """The keys of NGC that are in use."""
        found = {login.password.encode() for host, login in logins_of(place.pull or {}).items() if is_ngc(host)}
        found.add(_data(place.runtime or {}).get(VARIABLE, b""))
        return found - {b""}

    def _logins(self, place: Place, old: set[bytes]) -> dict[str, Login]:
        if place.pull is None:
            return {NGC: Login(USER, self.key), **self.logins}
        kept = {
            host: Login(login.user or USER, self.key) if is_ngc(host) or login.password.encode() in old else login
            for host, login in logins_of(place.pull).items()
        }
        return {**kept, **self.logins}

    def _values(self, place: Place, old: set[bytes]) -> dict[str, bytes]:
        mine = self.key.encode()
        live = _data(place.runtime or {})
        return {**{name: mine if value in old else value for name, value in live.items()}, VARIABLE: mine}


def is_ngc(host: str) -> bool:
    """Whether the key of a docker config stands for nvcr.io: some write it as a URL."""
    return bool(re.fullmatch(r"(https?://)?nvcr\.io(/.*)?", host))


def _data(secret: Object) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}


def _runtime(name: str, namespace: str, values: Mapping[str, bytes], salt: str) -> Object:
    made = runtime_secret(name, namespace, {}, salt)
    return {**made, "data": {key: base64.b64encode(values[key]).decode() for key in sorted(values)}}


def logins_of(pull: Object) -> dict[str, Login]:
    if _CONFIG not in (pull.get("data") or {}):
        return {}
    try:
        auths = json.loads(_data(pull)[_CONFIG])["auths"]
        return {host: _login(auth) for host, auth in auths.items()}
    except (ValueError, KeyError, AttributeError, TypeError):
        meta = pull["metadata"]
        raise OpsError(
            f"Secret {meta['namespace']}/{meta['name']} is no docker config that can be read, so what to keep of it is "
            f"not known. Correct it, or remove it: `kubectl delete secret -n {meta['namespace']} {meta['name']}`."
        ) from None


def _login(auth: Mapping[str, Any]) -> Login:
    """Some write only ``auth``, which holds both."""
    user, _colon, password = base64.b64decode(auth.get("auth") or "").decode().partition(":")
    return Login(str(auth.get("username") or user), str(auth.get("password") or password))


def given_logins(registries: Sequence[Mapping[str, Any]], key: str) -> dict[str, Login]:
    """Those of the option ``registries`` that are not NGC's own; without a password the key is one.

    :raises BadKey: a password is empty.
    """
    found = {}
    for number, each in enumerate(registries):
        given = each.get("password")
        password = key if given is None else str(given).strip()
        if not password:
            # most likely a variable that is empty; the NGC key must not go to somebody else's registry instead
            raise BadKey(f"registries[{number}].password: is empty; leave it out to use the NGC key.")
        if not is_ngc(each["host"]):
            found[each["host"]] = Login(each.get("username") or USER, password)
    return found
