# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Between the functions in _ops and Ansible; the only module util that knows AnsibleModule."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result

try:
    from ansible.module_utils.secrets import register_secrets  # ansible-core 2.22
except ImportError:

    def register_secrets(values: Iterable[str]) -> None:
        """Older cores have nothing that masks all output; results are masked by `outcome` on every core."""


LIBRARIES = ("cryptography", "kubernetes", "requests", "urllib3", "yaml")
MIN_DERIVED = 8  # base64 of a shorter value would be found, and masked, in ordinary words


@dataclass(frozen=True)
class ModuleSpec:
    """A module: its options, the rules between them (`required_if` and the like) and the function that works."""

    argument_spec: dict[str, Any]
    run: Callable[..., Result]
    rules: Mapping[str, Any] = field(default_factory=dict)


def hidden_values(params: Mapping[str, Any], no_log_values: Iterable[str]) -> list[str]:
    """All forms of the values of `no_log` options, of a kubeconfig's users and of a login in a proxy's URL, longest
    first; tells them to Ansible."""
    more = (*_kubeconfig_secrets(params.get("kubeconfig")), *_url_secrets(params.get("registry_proxy")))
    secrets = {text for text in (*no_log_values, *more) if text}
    hidden = set(secrets)
    for secret in secrets:
        if len(secret) >= MIN_DERIVED:
            inner = set(_base64_forms(secret))
            hidden |= inner
            # a docker config holds base64 of `user:key`, and a Secret holds base64 of the docker config
            hidden |= {form for text in inner for form in _base64_forms(text)}
    register_secrets(hidden)
    return sorted(hidden, key=len, reverse=True)


def mask(value: Any, hidden: Sequence[str]) -> Any:
    """The value, of any JSON type, with stars in place of hidden texts. (Ansible's own function is on its way out.)"""
    if isinstance(value, str):
        for text in hidden:
            value = value.replace(text, "********")
        return value
    if isinstance(value, Mapping):
        return {mask(key, hidden): mask(inner, hidden) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(inner, hidden) for inner in value]
    return value


def _base64_forms(text: str) -> Iterator[str]:
    """Base64 of the text alone, and what it looks like inside base64 of a longer text, wherever it starts there."""
    data = text.encode()
    yield base64.b64encode(data).decode()
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + data).decode()
        # the characters at both ends also depend on the neighbours
        yield whole[(offset * 8 + 5) // 6 : (offset + len(data)) * 8 // 6]


def _kubeconfig_secrets(kubeconfig: object) -> Iterator[str]:
    users = kubeconfig.get("users") if isinstance(kubeconfig, dict) else None
    for entry in users or []:
        user = (entry.get("user") if isinstance(entry, dict) else None) or {}
        for name in ("token", "password", "client-key-data"):
            yield str(user.get(name) or "")


def _url_secrets(url: object) -> Iterator[str]:
    password = re.search(r"//[^/@]*:([^/@]+)@", str(url or ""))
    if password:
        yield password[1]
        yield unquote(password[1])


def outcome(
    spec: ModuleSpec,
    params: Mapping[str, Any],
    hidden: Sequence[str],
    *,
    check_mode: bool,
    diff: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Does the work and returns what Ansible reports. The same for both ways of running; a bug stays an exception."""
    said: Result | OpsError
    try:
        said = spec.run(params, check_mode=check_mode, diff=diff, progress=progress)
    except OpsError as error:
        said = error
    except (KubeError, BadKey) as error:
        said = OpsError(str(error))
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if library not in LIBRARIES:
            raise
        said = OpsError(missing_required_lib(library))
    result = dict(said.data)
    if isinstance(said, OpsError):
        result["msg"] = said.message
    if diff and said.diff:
        result["diff"] = said.diff
    if said.warnings:
        result["warnings"] = said.warnings
    return {**mask(result, hidden), "changed": said.changed, "failed": isinstance(said, OpsError)}


def run_module(spec: ModuleSpec) -> None:
    """`main()` of every module. Exits."""
    module = AnsibleModule(argument_spec=spec.argument_spec, supports_check_mode=True, **spec.rules)
    hidden = hidden_values(module.params, module.no_log_values)
    module.no_log_values.update(hidden)
    # nobody shows what a module prints before it ends, so progress has no reader here
    result = outcome(
        spec, module.params, hidden, check_mode=module.check_mode, diff=module._diff, progress=lambda line: None
    )
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if result.pop("failed"):
        module.fail_json(**result)
    module.exit_json(**result)
