# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""One NIM service as wanted: from options to a checked, frozen specification.

The options are read by theme in ``options/``; here is what they make together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import contract
from .options import container, nim, scaling, scheduling, serving, volumes
from .options.check import DNS_LABEL, BadSpec, Check
from .options.container import SecretKey
from .options.scaling import Scaling
from .options.serving import Model
from .options.volumes import CaBundle, Cache, File, Mount

__all__ = ["BadSpec", "SecretKey", "ServiceSpec", "identity", "read"]

_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # KServe's own rule for an InferenceService
_MAX_HOST_LABEL = 63


@dataclass(frozen=True)
class ServiceSpec:
    """One service. Mappings are as the user wrote them, with every value already of its final type."""

    name: str
    namespace: str
    image: str
    image_pull_policy: str | None
    image_pull_secrets: tuple[str, ...]
    devices: Mapping[str, str]
    cpu: str
    memory: str
    share_memory: str | None
    port: int
    command: tuple[str, ...]
    args: tuple[str, ...]
    security_context: Mapping[str, Any]
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    env: Mapping[str, str]
    env_from_secret: Mapping[str, SecretKey]
    settings: Mapping[str, str]  # variables that follow from other options
    cache: Cache | None
    mounts: tuple[Mount, ...]
    files: tuple[File, ...]
    ca_bundle: CaBundle | None
    scaling: Scaling
    timeout: int | None
    model_format: Model | None
    enable_prometheus: bool
    metrics_port: int
    monitor: str
    monitor_labels: Mapping[str, str]
    update_strategy: str
    startup_timeout: int
    termination_grace_period: int
    pre_stop_sleep: int
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    affinity: Mapping[str, Any]
    topology_spread_constraints: tuple[Mapping[str, Any], ...]
    service_account_name: str | None
    priority_class_name: str | None
    runtime_class_name: str | None
    scheduler_name: str | None
    pod_patch: Mapping[str, Any]
    endpoint_host: str | None
    tls_secret: str | None
    warnings: tuple[str, ...] = ()

    @property
    def contract(self) -> contract.Contract:
        return _contract(self.image, self.model_format)

    @property
    def endpoint(self) -> str:
        """The URL of the host of our own, without a port; empty when there is none."""
        return f"{'https' if self.tls_secret else 'http'}://{self.endpoint_host}" if self.endpoint_host else ""

    @property
    def claims(self) -> dict[str, str]:
        """The claims that must exist already, and the option that names each."""
        uri = self.model_format.storage_uri or "" if self.model_format else ""
        found = {uri.split("/")[2]: "storage_uri"} if uri.startswith("pvc://") else {}
        for mount in self.mounts:
            if claim := mount.source.get("persistentVolumeClaim"):
                found.setdefault(claim["claimName"], mount.option)
        if self.cache and not self.cache.size:
            found[self.cache.claim] = "cache.claim"
        elif self.cache:
            found.pop(self.cache.claim, None)
        return found

    @property
    def model(self) -> str:
        """The id that ``/v1/models`` should list; empty where nothing tells it."""
        return self.env.get("NIM_SERVED_MODEL_NAME", "").split(",")[0].strip() or contract.model_of(self.image)


def identity(params: Mapping[str, Any]) -> tuple[str, str]:
    """Check the name and namespace alone (all that ``state=absent`` needs) and return (namespace, name).

    :raises BadSpec: all that is wrong with them.
    """
    check = Check(params)
    pair = _identity(check)
    check.finish()
    return pair


def read(params: Mapping[str, Any]) -> ServiceSpec:
    """Turn the options of one service, already of the right types, into a specification.

    :raises BadSpec: everything that is wrong, at once.
    """
    check, p = Check(params), params
    namespace, name = _identity(check)
    pods = {"serving.kserve.io/inferenceservice": name}
    image = container.image(check)
    cpu, memory, share_memory = container.sizes(check)
    port = check.port("port", contract.CONTAINER_PORT)
    env, env_from_secret = container.environment(check)
    command, args = container.command(check)
    cache, mounts, files = volumes.cache(check, env), volumes.mounts(check), volumes.files(check)
    ca_bundle = volumes.ca_bundle(check)
    taken = _taken(cache, mounts, files)
    volumes.places(check, taken)
    model_format = serving.model(check, cache)
    promise = _contract(image, model_format)
    grace_period = check.number_or("termination_grace_period", 0, promise.grace_period)
    settings = nim.settings(check, promise, port, cache, ca_bundle)
    nim.agree(check, env, env_from_secret, settings, port)
    serving.ingress_address(check)
    serving.refused(check)
    spec = ServiceSpec(
        name=name,
        namespace=namespace,
        image=image,
        image_pull_policy=p.get("image_pull_policy"),
        image_pull_secrets=check.names("image_pull_secrets"),
        devices=container.devices(check),
        cpu=cpu,
        memory=memory,
        share_memory=share_memory,
        port=port,
        command=command,
        args=args,
        security_context=scheduling.security_context(check),
        annotations=check.metadata("annotations"),
        labels=serving.labels(check),
        env=env,
        env_from_secret=env_from_secret,
        settings=settings,
        cache=cache,
        mounts=mounts,
        files=files,
        ca_bundle=ca_bundle,
        scaling=scaling.scaling(check, cache),
        timeout=None if p.get("timeout") is None else check.number("timeout", 1),
        model_format=model_format,
        enable_prometheus=bool(p.get("enable_prometheus")),
        metrics_port=check.port("metrics_port", port),
        monitor=str(p["monitor"]),
        monitor_labels=check.metadata("monitor_labels"),
        update_strategy=str(p["update_strategy"]),
        startup_timeout=check.number_or("startup_timeout", 1, promise.startup_timeout),
        termination_grace_period=grace_period,
        pre_stop_sleep=container.pre_stop_sleep(check, grace_period),
        node_selector=check.metadata("node_selector"),
        tolerations=scheduling.tolerations(check),
        affinity=scheduling.affinity(check, pods),
        topology_spread_constraints=scheduling.topology_spread(check, pods),
        service_account_name=check.name_or_none("service_account_name"),
        priority_class_name=check.name_or_none("priority_class_name"),
        runtime_class_name=check.name_or_none("runtime_class_name"),
        scheduler_name=check.name_or_none("scheduler_name"),
        pod_patch=scheduling.pod_patch(check, taken),
        endpoint_host=serving.endpoint_host(check),
        tls_secret=serving.tls_secret(check),
        warnings=tuple(check.warnings),
    )
    check.finish()
    return spec


def _contract(image: str, model_format: Model | None) -> contract.Contract:
    """By the image's tag, or by that which the specification puts in place of the serving runtime's."""
    tag = model_format.runtime_version if model_format and not image else None
    return contract.contract_for(f"nim:{tag}" if tag else image)


def _taken(cache: Cache | None, mounts: tuple[Mount, ...], files: tuple[File, ...]) -> list[tuple[str, str]]:
    """Return what is mounted where, by the option that does it."""
    taken = [("cache.path", cache.path)] if cache else []
    taken += [(mount.option, mount.path) for mount in mounts]
    return [*taken, *((f"config_files[{number}]", file.path) for number, file in enumerate(files))]


def _identity(check: Check) -> tuple[str, str]:
    name, namespace = str(check.params.get("name") or ""), str(check.params.get("namespace") or "")
    if not name:
        check.bad("name", "is missing; the service needs a name, for example llama3-8b-instruct")
    elif not _SERVICE_NAME.fullmatch(name):
        check.bad(
            "name",
            (
                f"{name!r} is not a name for a service: lower-case letters, digits and '-', starting "
                "with a letter and not ending with '-'"
            )
            + (f"; {_slug(name)!r} would do" if _slug(name) else ""),
        )
    if not DNS_LABEL.fullmatch(namespace):
        check.bad(
            "namespace",
            f"{namespace!r} is not a name for a namespace: at most 63 lower-case letters, digits and '-'",
        )
    elif name:
        host = f"{name}-predictor-{namespace}"
        if len(host) > _MAX_HOST_LABEL:
            fits = _MAX_HOST_LABEL - len(f"-predictor-{namespace}")
            check.bad(
                "name",
                f"KServe makes the host name {host!r} of it, which has {len(host)} characters and may have "
                f"{_MAX_HOST_LABEL}; "
                f"in this namespace a name of at most {max(fits, 0)} characters fits",
            )
    return namespace, name


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789").rstrip("-")
