# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""From a task's options to one specification for each service."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError

Arguments = dict[str, Any]
T = TypeVar("T")

# What one service is. The same options stand at the top level and in the entries of `services`.
SERVICE_ARGUMENTS: Arguments = {
    "name": {"type": "str"},
    "namespace": {"type": "str", "default": "default"},
    "create_namespace": {"type": "bool", "default": False},
    "image": {"type": "str"},
    "image_pull_policy": {"type": "str", "choices": ["Always", "IfNotPresent", "Never"]},
    "image_pull_secrets": {
        "type": "list",
        "elements": "str",
        "default": ["ngc-secret"],
        "aliases": ["image_pull_secret"],
        "no_log": False,
    },
    "gpus": {"type": "int"},
    "gpu_resource": {"type": "str", "default": "nvidia.com/gpu"},
    "gpu_memory": {"type": "int", "aliases": ["gpumemory"]},
    "gpu_core": {"type": "int", "aliases": ["gpucore"]},
    "devices": {"type": "dict", "aliases": ["device"]},
    "cpu": {"type": "str", "default": "8"},
    "memory": {"type": "str", "default": "32Gi"},
    "share_memory": {"type": "str", "default": "16Gi", "aliases": ["shared_memory"]},
    "port": {"type": "int", "default": 8000},
    "command": {"type": "raw"},
    "shell": {"type": "str", "default": "sh"},
    "arguments": {"type": "list", "elements": "str"},
    "security_context": {"type": "dict", "default": {"fsGroup": 1000}},
    "annotations": {"type": "dict", "aliases": ["annotation"]},
    "labels": {"type": "dict", "aliases": ["label"]},
    "model_name": {"type": "str"},
    "model_version": {"type": "str"},
    "env": {"type": "dict"},
    "env_from_secret": {"type": "dict", "default": {"NGC_API_KEY": "nvidia-nim-secrets"}, "no_log": False},
    "model_profile": {"type": "str"},
    "repository_override": {"type": "str"},
    "pod_proxy": {
        "type": "dict",
        "options": {
            "http": {"type": "str"},
            "https": {"type": "str"},
            "no_proxy": {"type": "list", "elements": "str"},
        },
    },
    "ca_bundle": {
        "type": "dict",
        "options": {
            "config_map": {"type": "str"},
            "secret": {"type": "str", "no_log": False},
            "key": {"type": "str", "default": "ca.crt", "no_log": False},
        },
    },
    "cache": {
        "type": "dict",
        "options": {
            "claim": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/mnt/models"},
            "sub_path": {"type": "str"},
            "size": {"type": "str"},
            "storage_class": {"type": "str"},
            "access_modes": {
                "type": "list",
                "elements": "str",
                "choices": ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"],
                "default": ["ReadWriteOnce"],
            },
        },
    },
    "data": {"type": "list", "elements": "raw"},
    "temp_dirs": {"type": "list", "elements": "raw", "aliases": ["temp_dir"]},
    "config_files": {"type": "list", "elements": "raw", "aliases": ["config_file"]},
    "min_replicas": {"type": "int", "default": 1, "aliases": ["replicas"]},
    "max_replicas": {"type": "int"},
    "autoscaler_class": {"type": "str", "choices": ["none", "hpa", "external", "keda"]},
    "scale_metric": {"type": "str"},
    "scale_target": {"type": "float"},
    "autoscaling": {
        "type": "dict",
        "options": {"metrics": {"type": "list", "elements": "dict"}, "behavior": {"type": "dict"}},
    },
    "timeout": {"type": "int"},
    "model_format": {"type": "str"},
    "runtime": {"type": "str"},
    "runtime_version": {"type": "str"},
    "storage_uri": {"type": "str"},
    "protocol_version": {"type": "str"},
    "enable_prometheus": {"type": "bool", "default": False},
    "metrics_port": {"type": "int"},
    "monitor": {"type": "str", "choices": ["service", "pod"], "default": "service"},
    "monitor_labels": {"type": "dict"},
    "update_strategy": {"type": "str", "choices": ["auto", "in_place", "surge"], "default": "auto"},
    "startup_timeout": {"type": "int"},
    "termination_grace_period": {"type": "int"},
    "pre_stop_sleep": {"type": "int"},
    "node_selector": {"type": "dict", "aliases": ["selector"]},
    "tolerations": {"type": "list", "elements": "raw", "aliases": ["toleration"]},
    "affinity": {"type": "dict"},
    "affinity_policy": {"type": "str", "choices": ["none", "spread", "binpack"], "default": "none"},
    "affinity_constraint": {"type": "str", "choices": ["preferred", "required"], "default": "preferred"},
    "topology_spread_constraints": {"type": "list", "elements": "dict"},
    "service_account_name": {"type": "str"},
    "priority_class_name": {"type": "str"},
    "runtime_class_name": {"type": "str"},
    "scheduler_name": {"type": "str"},
    "deployment_mode": {"type": "str", "choices": ["auto", "Standard", "RawDeployment"], "default": "auto"},
    "pod_patch": {"type": "dict"},
    "endpoint_host": {"type": "str"},
    "tls_secret": {"type": "str", "no_log": False},
    "ingress_address": {"type": "str"},
    "adopt": {"type": "bool", "default": False},
    "keep_cache": {"type": "bool", "default": True},
    # arena's flags that can't work here; each says what to use instead
    "version": {"type": "str"},
    "data_dir": {"type": "list", "elements": "raw"},
    "data_subpath_expr": {"type": "list", "elements": "raw"},
    "temp_dir_subpath_expr": {"type": "list", "elements": "raw"},
    "enable_istio": {"type": "bool"},
    "expose_service": {"type": "bool"},
    "container_concurrency": {"type": "int"},
    "canary_traffic_percent": {"type": "int"},
}
# What the task as a whole does with them.
TASK_ARGUMENTS: Arguments = {
    "state": {"type": "str", "choices": ["present", "stopped", "absent"], "default": "present"},
    "services": {"type": "list", "elements": "dict"},
    "kserve_namespace": {"type": "str", "default": "kserve"},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "int", "default": 3600},
    "unschedulable_grace": {"type": "int", "default": 60},
}


class BadEntry(Exception):
    """``errors`` holds (option, text) pairs of one entry; the option may be empty."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(text for option, text in errors))
        self.errors = errors


@dataclass(frozen=True)
class Entry:
    """All options of one service; ``place`` is where it stands in the task, empty at the top level."""

    place: str
    params: Mapping[str, Any]


def read_all(
    params: Mapping[str, Any],
    read: Callable[[Mapping[str, Any]], T],
    arguments: Optional[Arguments] = None,
    of_task: Collection[str] = tuple(TASK_ARGUMENTS),
) -> list[tuple[Entry, T]]:
    """Read every service of the task with ``read``, which may raise BadEntry.

    :param arguments: the options of one service, SERVICE_ARGUMENTS if not given; ``of_task``: names of options that
        stand beside ``services`` only.
    :raises OpsError: with all that is wrong, one line for each option.
    """
    errors: list[str] = []
    found: list[tuple[Entry, T]] = []
    for name, least in (("wait_timeout", 0), ("unschedulable_grace", 0)):
        if params.get(name) is not None and params[name] < least:
            errors.append(f"{name}: is {params[name]}, must be {least} or more")
    places: dict[tuple[str, str], str] = {}
    hosts: dict[str, str] = {}
    for entry, wrong in entries(params, arguments or SERVICE_ARGUMENTS, of_task):
        if not wrong:
            try:
                found.append((entry, read(entry.params)))
            except BadEntry as error:
                wrong = error.errors
        prefix = f"{entry.place}." if entry.place else ""
        errors += [f"{prefix}{option}: {text}" if option else f"{entry.place}: {text}" for option, text in wrong]
        key = (str(entry.params.get("namespace")), str(entry.params.get("name")))
        if entry.params.get("name") and places.setdefault(key, entry.place) != entry.place:
            errors.append(
                f"{prefix}name: {key[0]}/{key[1]} is already {places[key]}; each service stands once in a task"
            )
        host = entry.params.get("endpoint_host") if params.get("state") == "present" else None
        if host and hosts.setdefault(host, entry.place) != entry.place:
            errors.append(f"{prefix}endpoint_host: {host} is already that of {hosts[host]}; each service has its own")
    if errors:
        raise OpsError("\n".join(errors))
    return found


def entries(
    params: Mapping[str, Any], arguments: Arguments, of_task: Collection[str]
) -> list[tuple[Entry, list[tuple[str, str]]]]:
    """The services of a task, each with what is wrong with it: (option, text) pairs.

    :param arguments: the options of one service; ``of_task``: names of options that stand beside ``services`` only.
    :raises OpsError: ``name`` stands beside ``services``.
    """
    top = {name: params.get(name) for name in arguments}
    if params.get("services") is None:
        return [(Entry("", top), [])]
    if top["name"]:
        raise OpsError("name: is given beside services; name each service in its entry of services")
    found = []
    for number, raw in enumerate(params["services"]):
        given, wrong = _typed(raw, arguments, of_task)
        found.append((Entry(f"services[{number}]", {**top, **given}), wrong))
    return found


def _typed(
    raw: Mapping[str, Any], arguments: Arguments, of_task: Collection[str]
) -> tuple[Arguments, list[tuple[str, str]]]:
    """Check an entry with the module's own specification, option by option so that each error knows its option."""
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

    aliases = {alias: name for name, spec in arguments.items() for alias in spec.get("aliases", ())}
    given: Arguments = {}
    wrong: list[tuple[str, str]] = []
    for key, value in raw.items():
        name = aliases.get(key, key)
        if name in given:
            wrong.append((key, f"is the same as {name}, which is also given"))
        elif name in of_task:
            wrong.append((key, "belongs to the task as a whole; set it beside services"))
        elif name not in arguments:
            known = [*arguments, *aliases]
            close = difflib.get_close_matches(str(name), known, 1) or [k for k in known if k.endswith(f"_{name}")]
            hint = f"did you mean {close[0]}?" if close else "the options are in the module's documentation"
            wrong.append((key, f"there is no such option for a service; {hint}"))
        elif value is None:
            continue  # as if it was not written, so that the top level counts
        else:
            option = {name: {k: v for k, v in arguments[name].items() if k != "aliases"}}
            checked = ArgumentSpecValidator(option).validate({name: value})
            wrong += [(name, message) for message in checked.error_messages]
            given[name] = checked.validated_parameters[name]
    return given, wrong
