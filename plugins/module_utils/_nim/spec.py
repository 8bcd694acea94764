# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""One NIM service as wanted: from options to a checked, frozen specification."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from . import contract, patch, quantity

CONTAINER = "kserve-container"
CACHE_VOLUME = "nim-cache"
SHM_VOLUME = "dshm"
PREFIX = "gpuops.nim/"

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
SCALER_ANNOTATION = "serving.kserve.io/autoscalerClass"
VISIBILITY_LABEL = "networking.kserve.io/visibility"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # KServe's own rule for an InferenceService
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ENV_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")

_MAX_HOST_LABEL = 63
_RESERVED = {  # keys of labels and annotations that an option or KServe itself sets
    MODE_ANNOTATION: "set the option deployment_mode instead",
    SCALER_ANNOTATION: "set the option autoscaler_class instead",
    "serving.kserve.io/inferenceservice": "KServe sets it itself",
    "component": "KServe sets it itself",
    "app.kubernetes.io/managed-by": "it marks what this collection made",
}
_POD_SECURITY = {
    "appArmorProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seLinuxChangePolicy",
    "seLinuxOptions",
    "seccompProfile",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "sysctls",
    "windowsOptions",
}
_CONTAINER_SECURITY = {"allowPrivilegeEscalation", "capabilities", "privileged", "procMount", "readOnlyRootFilesystem"}
_SERVED_BY_PREDICTOR = {
    "minReplicas",
    "maxReplicas",
    "scaleMetric",
    "scaleTarget",
    "deploymentStrategy",
    "model",
    "autoScaling",
    "timeout",
}


@dataclass(frozen=True)
class Cache:
    """A claim for the model files. With ``size`` the claim is made when it is missing."""

    claim: str
    path: str
    size: str | None
    storage_class: str | None
    access_modes: tuple[str, ...]


@dataclass(frozen=True)
class SecretKey:
    secret: str
    key: str


@dataclass(frozen=True)
class ServiceSpec:
    """One service. Mappings are as the user wrote them, with every value already of its final type."""

    name: str
    namespace: str
    image: str
    image_pull_policy: str | None
    image_pull_secrets: tuple[str, ...]
    gpus: int
    gpu_resource: str
    cpu: str
    memory: str
    share_memory: str | None
    port: int
    security_context: Mapping[str, Any]
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    env: Mapping[str, str]
    env_from_secret: Mapping[str, SecretKey]
    cache: Cache | None
    min_replicas: int
    max_replicas: int | None
    autoscaler_class: str
    enable_prometheus: bool
    metrics_port: int
    update_strategy: str
    startup_timeout: int
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    service_account_name: str | None
    pod_patch: Mapping[str, Any]
    endpoint_host: str | None
    tls_secret: str | None
    warnings: tuple[str, ...] = ()

    @property
    def contract(self) -> contract.Contract:
        return contract.contract_for(self.image)

    @property
    def endpoint(self) -> str:
        """The URL of the host of our own, without a port; empty when there is none."""
        return f"{'https' if self.tls_secret else 'http'}://{self.endpoint_host}" if self.endpoint_host else ""

    @property
    def model(self) -> str:
        """The id that ``/v1/models`` should list."""
        return self.env.get("NIM_SERVED_MODEL_NAME", "").split(",")[0].strip() or contract.model_of(self.image)


class BadSpec(Exception):
    """``errors`` holds one (option, what is wrong and what would be right) for each bad option."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{option}: {text}" for option, text in errors))
        self.errors = tuple(errors)


def identity(params: Mapping[str, Any]) -> tuple[str, str]:
    """Check the name and namespace alone (all that ``state=absent`` needs) and return (namespace, name).

    :raises BadSpec: all that is wrong with them.
    """
    check = _Check(params)
    pair = check.identity()
    check.finish()
    return pair


def read(params: Mapping[str, Any]) -> ServiceSpec:
    """Turn the options of one service, already of the right types, into a specification.

    :raises BadSpec: everything that is wrong, at once.
    """
    return _Check(params).spec()


class _Check:
    """Collects what is wrong while it reads, so that a person has to correct an entry only once."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.errors: list[tuple[str, str]] = []
        self.warnings: list[str] = []

    def bad(self, option: str, text: str) -> None:
        self.errors.append((option, text))

    def finish(self) -> None:
        if self.errors:
            raise BadSpec(self.errors)

    def identity(self) -> tuple[str, str]:
        name, namespace = str(self.params.get("name") or ""), str(self.params.get("namespace") or "")
        if not name:
            self.bad("name", "is missing; the service needs a name, for example llama3-8b-instruct")
        elif not _SERVICE_NAME.fullmatch(name):
            self.bad(
                "name",
                (
                    f"{name!r} is not a name for a service: lower-case letters, digits and '-', starting "
                    "with a letter and not ending with '-'"
                )
                + (f"; {_slug(name)!r} would do" if _slug(name) else ""),
            )
        if not _DNS_LABEL.fullmatch(namespace) or len(namespace) > _MAX_HOST_LABEL:
            self.bad(
                "namespace",
                f"{namespace!r} is not a name for a namespace: at most 63 lower-case letters, digits and '-'",
            )
        elif name:
            host = f"{name}-predictor-{namespace}"
            if len(host) > _MAX_HOST_LABEL:
                fits = _MAX_HOST_LABEL - len(f"-predictor-{namespace}")
                self.bad(
                    "name",
                    f"KServe makes the host name {host!r} of it, which has {len(host)} characters and may have "
                    f"{_MAX_HOST_LABEL}; "
                    f"in this namespace a name of at most {max(fits, 0)} characters fits",
                )
        return namespace, name

    def spec(self) -> ServiceSpec:
        p = self.params
        namespace, name = self.identity()
        image = self.image()
        cpu, memory, share_memory = self.sizes()
        port = self.port("port", contract.CONTAINER_PORT)
        env, env_from_secret = self.environment(port)
        cache = self.cache(env)
        min_replicas, max_replicas = self.replicas(cache)
        self.ingress_address()
        spec = ServiceSpec(
            name=name,
            namespace=namespace,
            image=image,
            image_pull_policy=p.get("image_pull_policy"),
            image_pull_secrets=self.names("image_pull_secrets"),
            gpus=self.number("gpus", 0),
            gpu_resource=self.qualified("gpu_resource"),
            cpu=cpu,
            memory=memory,
            share_memory=share_memory,
            port=port,
            security_context=self.security_context(),
            annotations=self.metadata("annotations"),
            labels=self.metadata("labels"),
            env=env,
            env_from_secret=env_from_secret,
            cache=cache,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            autoscaler_class=str(p["autoscaler_class"]),
            enable_prometheus=bool(p.get("enable_prometheus")),
            metrics_port=self.port("metrics_port", port),
            update_strategy=str(p["update_strategy"]),
            startup_timeout=self.number("startup_timeout", 1),
            node_selector=self.metadata("node_selector"),
            tolerations=self.tolerations(),
            service_account_name=self.name_or_none("service_account_name"),
            pod_patch=self.pod_patch(cache),
            endpoint_host=self.endpoint_host(),
            tls_secret=self.tls_secret(),
            warnings=tuple(self.warnings),
        )
        self.finish()
        return spec

    # -- single options

    def number(self, option: str, least: int) -> int:
        value = int(self.params[option])
        if value < least:
            self.bad(option, f"is {value}, must be {least} or more")
        return value

    def port(self, option: str, default: int) -> int:
        value = self.params.get(option)
        if value is None:
            return default
        value = int(value)
        if not 1 <= value <= 65535:
            self.bad(option, f"{value} is not a port; 1 to 65535, NIM's own is {contract.CONTAINER_PORT}")
        return value

    def qualified(self, option: str) -> str:
        value = str(self.params[option])
        if not _QUALIFIED.fullmatch(value) or "/" not in value:
            self.bad(
                option,
                f"{value!r} is not the name of an extended resource, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb",
            )
        return value

    def name_or_none(self, option: str) -> str | None:
        value = self.params.get(option)
        if value and not _SUBDOMAIN.fullmatch(value):
            self.bad(option, f"{value!r} is not an object's name: lower-case letters, digits, '-' and '.'")
        return value or None

    def endpoint_host(self) -> str | None:
        value = str(self.params.get("endpoint_host") or "")
        if value and (not _SUBDOMAIN.fullmatch(value) or len(value) > 253 or value.rpartition(".")[2].isdigit()):
            self.bad(
                "endpoint_host",
                f"{value!r} is not a DNS name: lower-case letters, digits, '-' and '.', without scheme and port; "
                "for example llama.example.com",
            )
        return value or None

    def tls_secret(self) -> str | None:
        value = self.name_or_none("tls_secret")
        if value and not self.params.get("endpoint_host"):
            self.bad("tls_secret", "is for a name of your own, so it needs endpoint_host, the name in the certificate")
        return value

    def ingress_address(self) -> None:
        value = str(self.params.get("ingress_address") or "")
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # what urlsplit says of a port that is no number
            right = False
        if value and not right:
            self.bad("ingress_address", f"{value!r} is not an address; host:port, or a URL such as https://host:port")

    def names(self, option: str) -> tuple[str, ...]:
        values = tuple(str(value) for value in self.params.get(option) or () if value)
        for value in values:
            if not _SUBDOMAIN.fullmatch(value):
                self.bad(option, f"{value!r} is not an object's name: lower-case letters, digits, '-' and '.'")
        return tuple(dict.fromkeys(values))

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
        values = {}
        for key, raw in (self.params.get(option) or {}).items():
            value = values[str(key)] = self.text(option, key, raw)
            if not _QUALIFIED.fullmatch(str(key)):
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
            if option != "annotations" and not _LABEL_VALUE.fullmatch(value):
                self.bad(
                    f"{option}.{key}",
                    (
                        f"{value!r} is not a valid value: at most 63 letters, digits, '-', '_' and '.', with "
                        "a letter or digit at both ends"
                    ),
                )
        return values

    # -- options that belong together

    def image(self) -> str:
        image = str(self.params.get("image") or "")
        if not image:
            self.bad("image", "is missing; for example nvcr.io/nim/meta/llama3-8b-instruct:1.0.0")
            return image
        try:
            parsed = contract.parse_image(image)
        except ValueError as error:
            self.bad("image", str(error))
            return image
        if parsed.digest:
            return image
        if parsed.tag in ("", "latest"):
            self.warnings.append(
                f"image: {image} has no fixed tag, so a restarted pod may bring another version; "
                "write the tag, for example :1.0.3"
            )
        return image

    def size(self, option: str) -> Decimal | None:
        value = self.params.get(option)
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

    def sizes(self) -> tuple[str, str, str | None]:
        p = self.params
        self.size("cpu")
        memory = self.size("memory")
        shared = self.size("share_memory") if p.get("share_memory") else None
        if memory and shared and shared >= memory:
            self.warnings.append(
                "share_memory: what is written to /dev/shm counts inside the memory limit, so "
                f"{p['share_memory']} of {p['memory']} "
                "leaves nothing for the model's process once it is full; memory should be larger"
            )
        return str(p["cpu"]), str(p["memory"]), str(p["share_memory"]) if p.get("share_memory") else None

    def environment(self, port: int) -> tuple[dict[str, str], dict[str, SecretKey]]:
        env = {}
        for name, raw in (self.params.get("env") or {}).items():
            self.env_name("env", name)
            env[str(name)] = self.text("env", name, raw)
        for name in ("NIM_SERVER_PORT", "NIM_HTTP_API_PORT"):
            if name in env and env[name] != str(port):
                self.bad("env", f"{name} is {env[name]} and the option port is {port}; set port alone, {name} follows")
        references = {}
        for name, raw in (self.params.get("env_from_secret") or {}).items():
            self.env_name("env_from_secret", name)
            reference = self.secret_key(str(name), raw)
            if reference:
                references[str(name)] = reference
            if name in env:
                self.bad("env_from_secret", f"{name} is also in env; leave it in one of them")
        return env, references

    def env_name(self, option: str, name: Any) -> None:
        if not _ENV_NAME.fullmatch(str(name)):
            self.bad(
                option, f"{name!r} is not the name of a variable: letters, digits and '_', not starting with a digit"
            )
        elif name == "INFERENCE_SERVICE_NAME":
            self.bad(option, f"{name} can't be set: KServe sets it itself")

    def secret_key(self, name: str, raw: Any) -> SecretKey | None:
        where = f"env_from_secret.{name}"
        if isinstance(raw, Mapping):
            unknown = sorted(set(raw) - {"secret", "key"})
            if unknown or not raw.get("secret"):
                self.bad(
                    where,
                    (
                        "must be the name of a secret or {secret: NAME, key: "
                        f"KEY}}{', not ' + ', '.join(map(str, unknown)) if unknown else ''}"
                    ),
                )
                return None
            reference = SecretKey(str(raw["secret"]), str(raw.get("key") or name))
        elif isinstance(raw, str) and raw:
            reference = SecretKey(raw, name)
        else:
            self.bad(where, "must be the name of a secret or {secret: NAME, key: KEY}")
            return None
        if not _SUBDOMAIN.fullmatch(reference.secret):
            self.bad(
                where,
                (
                    f"{reference.secret!r} is not a secret's name: lower-case letters, digits, '-' and "
                    "'.'; the key itself goes into the secret, see nim_secret"
                ),
            )
            return None
        if not _SECRET_KEY.fullmatch(reference.key):
            self.bad(where, f"{reference.key!r} is not a key of a secret: letters, digits, '-', '_' and '.'")
            return None
        return reference

    def cache(self, env: Mapping[str, str]) -> Cache | None:
        raw = self.params.get("cache")
        if not raw:
            return None
        claim, path, size = str(raw.get("claim") or ""), str(raw.get("path") or ""), raw.get("size")
        if not _SUBDOMAIN.fullmatch(claim):
            self.bad("cache.claim", f"{claim!r} is not a claim's name: lower-case letters, digits, '-' and '.'")
        if (
            not path.startswith("/")
            or ":" in path
            or path.rstrip("/") in ("", "/dev", "/dev/shm", "/etc", "/proc", "/sys", "/usr")
        ):
            self.bad(
                "cache.path", f"{path!r} can't hold the model files; an absolute path of its own, such as /mnt/models"
            )
        if size:
            try:
                if quantity.parse(size) < 2**30:
                    self.bad("cache.size", f"{size} is less than any model; for example 100Gi")
            except ValueError:
                self.bad("cache.size", f"{size!r} is not a quantity; for example 100Gi")
        elif raw.get("storage_class"):
            self.bad(
                "cache.storage_class",
                "says how to make the claim, so it needs cache.size; without a size the claim must exist already",
            )
        wanted = env.get("NIM_CACHE_PATH")
        if wanted is not None and wanted != path and not wanted.startswith(path.rstrip("/") + "/"):
            self.bad(
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
        )

    def replicas(self, cache: Cache | None) -> tuple[int, int | None]:
        least, most = self.number("min_replicas", 0), self.params.get("max_replicas")
        scaler = self.params["autoscaler_class"]
        if least == 0 and scaler != "keda":
            self.bad(
                "min_replicas",
                (
                    f"is 0, but with autoscaler_class {scaler} nothing would start it again; 1 or more, "
                    "or autoscaler_class: keda"
                ),
            )
        if most is not None and most < least:
            self.bad("max_replicas", f"is {most}, less than min_replicas ({least})")
        elif most is not None and most > least and scaler == "none":
            self.bad(
                "max_replicas",
                (
                    f"is {most}, but autoscaler_class none keeps min_replicas ({least}); set "
                    "autoscaler_class: hpa, external or keda"
                ),
            )
        if cache and max(least, most or 0) > 1 and cache.size and not {"ReadWriteMany"} & set(cache.access_modes):
            self.warnings.append(
                f"cache.access_modes: {', '.join(cache.access_modes)} can be mounted on one node "
                "only; several replicas on several nodes need ReadWriteMany"
            )
        return least, most

    def security_context(self) -> dict[str, Any]:
        values = dict(self.params.get("security_context") or {})
        for key, value in list(values.items()):
            if key in _CONTAINER_SECURITY:
                self.bad(
                    "security_context",
                    f"{key} belongs to a container, not to the pod; use pod_patch: "
                    f"{{containers: [{{name: {CONTAINER}, securityContext: {{{key}: …}}}}]}}",
                )
            elif key not in _POD_SECURITY:
                close = difflib.get_close_matches(str(key), _POD_SECURITY, 1)
                self.bad(
                    "security_context",
                    f"{key!r} is not a field of a pod's security context"
                    + (f"; did you mean {close[0]}?" if close else ""),
                )
            elif key in ("runAsUser", "runAsGroup", "fsGroup"):
                if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)):
                    self.bad(f"security_context.{key}", f"must be a number, is {value!r}")
                else:
                    values[key] = int(value)
        return values

    def tolerations(self) -> tuple[Mapping[str, Any], ...]:
        fields = ("key", "operator", "value", "effect", "tolerationSeconds")
        for number, item in enumerate(self.params.get("tolerations") or ()):
            where = f"tolerations[{number}]"
            unknown = sorted(set(item) - set(fields))
            if unknown:
                self.bad(where, f"has no field {unknown[0]!r}; {', '.join(fields)}")
                continue
            if item.get("operator") not in (None, "Exists", "Equal"):
                self.bad(where, f"operator {item['operator']!r} is not known; Exists or Equal")
            if item.get("effect") not in (None, "", "NoSchedule", "PreferNoSchedule", "NoExecute"):
                self.bad(where, f"effect {item['effect']!r} is not known; NoSchedule, PreferNoSchedule or NoExecute")
            if item.get("operator") == "Exists" and item.get("value"):
                self.bad(where, "operator Exists takes no value; leave it out or use Equal")
            if not item.get("key") and item.get("operator") != "Exists":
                self.bad(where, "without a key the operator must be Exists (it then tolerates every taint)")
        return tuple(self.params.get("tolerations") or ())

    def pod_patch(self, cache: Cache | None) -> dict[str, Any]:
        value = dict(self.params.get("pod_patch") or {})
        for key in sorted(set(value) & {"spec", "metadata", "template"}):
            self.bad(
                "pod_patch",
                f"takes the fields of a pod's spec directly, without {key!r}"
                + ("; labels and annotations are options" if key == "metadata" else ""),
            )
        for key in sorted(set(value) & _SERVED_BY_PREDICTOR):
            self.bad("pod_patch", f"{key!r} is not a field of a pod; pod_patch changes the pod alone")
        try:
            patch.merge({}, value)
        except patch.PatchError as error:
            self.bad("pod_patch", str(error))
            return value
        for container in value.get("containers") or ():
            for mount in container.get("volumeMounts") or ():
                if (
                    cache
                    and mount.get("mountPath") == cache.path
                    and mount.get("$patch") != "delete"
                    and mount.get("name", CACHE_VOLUME) != CACHE_VOLUME
                ):
                    self.bad(
                        "pod_patch",
                        (
                            f"mounts {mount['name']} at {cache.path}, where cache.claim already is; use another "
                            "path or leave cache out"
                        ),
                    )
        return value


def _is_quantity(text: str) -> bool:
    try:
        return quantity.parse(text) > 0
    except ValueError:
        return False


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789").rstrip("-")
