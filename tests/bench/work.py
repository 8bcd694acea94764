# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be deployed, the same for all: the options of this collection, and the objects that they stand for."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import dataclass, replace
from typing import Any

import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests, spec
from ansible_collections.gpuops.nim.plugins.module_utils._nim.names import CONTAINER
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import SERVICE_ARGUMENTS
from rehearsal.layout import PORTS
from rehearsal.standins.ngc import KEYS

Json = dict[str, Any]
IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct"
ADDRESS = f"127.0.0.1:{PORTS['ingress']}"
QUESTION = {
    "model": "meta/llama3-8b-instruct",
    "messages": [{"role": "user", "content": "What is a GPU?"}],
    "max_tokens": 64,
}


@dataclass(frozen=True)
class Work:
    """``count`` services in ``namespace``. ``load``: seconds that a model loads; ``patience``: seconds of the wait."""

    namespace: str
    count: int = 1
    load: float = 3
    tag: str = "1.0.0"
    key: str = KEYS["valid"]
    cpu_limit: bool = True
    patience: int = 900

    def changed(self, **fields: Any) -> Work:
        return replace(self, **fields)

    @property
    def names(self) -> list[str]:
        return [f"m{number}" for number in range(self.count)]

    @property
    def hosts(self) -> list[str]:
        return [f"{name}-{self.namespace}.example.com" for name in self.names]

    @property
    def services(self) -> list[Json]:
        """For nim_kserve. Small requests, so that a hundred fit the node; no limit that would slow a start down."""
        limit = {"cpu": "2" if self.cpu_limit else None}
        return [
            {
                "name": name,
                "image": f"{IMAGE}:{self.tag}",
                "gpus": 0,
                "cpu": "10m",
                "memory": "96Mi",
                "share_memory": "8Mi",
                "update_strategy": "surge",
                "env": {"NIM_STANDIN_LOAD_SECONDS": str(self.load)},
                "pod_patch": {"containers": [{"name": CONTAINER, "resources": {"limits": limit}}]},
            }
            for name in self.names
        ]

    @property
    def manifests(self) -> list[Json]:
        """The InferenceServices as nim_kserve sends them."""
        defaults = {name: copy.deepcopy(argument.get("default")) for name, argument in SERVICE_ARGUMENTS.items()}
        return [
            manifests.inference_service(
                spec.read({**defaults, **service, "namespace": self.namespace}), "Standard", "surge"
            )
            for service in self.services
        ]

    @property
    def secrets(self) -> list[Json]:
        login = base64.b64encode(f"$oauthtoken:{self.key}".encode()).decode()
        auths = {"auths": {"nvcr.io": {"username": "$oauthtoken", "password": self.key, "auth": login}}}
        return [
            self._secret("ngc-secret", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", json.dumps(auths)),
            self._secret("nvidia-nim-secrets", "Opaque", "NGC_API_KEY", self.key),
        ]

    def _secret(self, name: str, kind: str, key: str, value: str) -> Json:
        meta = {"name": name, "namespace": self.namespace}
        data = {key: base64.b64encode(value.encode()).decode()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": kind, "data": data}

    def as_yaml(self) -> str:
        """All objects in one file."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        return yaml.safe_dump_all([namespace, *self.secrets, *self.manifests])

    def variables(self) -> Json:
        """For both playbooks."""
        return {
            "place": self.namespace,
            "patience": self.patience,
            "address": ADDRESS,
            "services": self.services,
            "names": [{"name": name} for name in self.names],
            "host_names": self.hosts,
            "secrets": self.secrets,
            "manifests": self.manifests,
            "question": QUESTION,
        }
