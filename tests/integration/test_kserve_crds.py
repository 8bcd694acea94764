# SPDX-License-Identifier: GPL-3.0-or-later
"""What we render against the schemas and ConfigMaps of KServe releases that don't run here.

These tests know a release by its files alone: the API server checks our manifests strictly against its
InferenceService CRD, under a group of its own. No controller or webhook of that release takes part.
"""

from __future__ import annotations

import json

import pytest
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_config, manifests, spec
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.scene import options

pytestmark = pytest.mark.rehearsal

CACHE = {"claim": "nim-model", "path": "/mnt/models", "sub_path": "llama", "access_modes": ["ReadWriteMany"]}
TERM = {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-H200"]}]}
SPREAD = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
SIDECAR = {"name": "log", "image": "busybox", "envFrom": [{"configMapRef": {"name": "log"}}], "stdin": True}
COMMON = {
    "cache": CACHE,
    "env": {"NIM_LOG_LEVEL": "INFO"},
    "model_profile": "tensorrt_llm-h100-fp8-tp1-latency",
    "proxy": {"http": "http://proxy:3128", "https": "http://proxy:3128", "no_proxy": [".svc"]},
    "ca_bundle": {"config_map": "ca", "secret": None, "key": "ca.crt"},
    "image_pull_policy": "IfNotPresent",
    "labels": {"team": "nlp"},
    "node_selector": {"nvidia.com/gpu.present": "true"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [TERM]}}},
    "topology_spread_constraints": [{**SPREAD, "labelSelector": {"matchLabels": {"app": "nim"}}}],
    "priority_class_name": "high",
    "runtime_class_name": "nvidia",
    "scheduler_name": "other",
    "service_account_name": "nim",
    "security_context": {"fsGroup": 1000, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    "temp_dirs": ["scratch:/tmp/nim"],
    "data": ["other:/data"],
    "termination_grace_period": 60,
    "timeout": 600,
}
SERVICES = {
    "fixed": {**COMMON, "min_replicas": 2, "update_strategy": "surge", "pod_patch": {"initContainers": [SIDECAR]}},
    "scaled": {
        **COMMON,
        "autoscaler_class": "hpa",
        "scale_metric": "cpu",
        "scale_target": 80.0,
        "max_replicas": 3,
        "args": ["--verbose"],
        "pod_patch": {"containers": [SIDECAR], "hostIPC": True, "dnsConfig": {"nameservers": ["10.0.0.1"]}},
    },
    "from a runtime": {
        "image": None,
        "model_format": "nvidia-nim-llama3-8b-instruct",
        "runtime": "nvidia-nim-llama3-8b-instruct-1.0.0",
        "storage_uri": "pvc://nim-model/",
        "update_strategy": "in_place",
    },
}


# release: the part of the toolchain with its files, the word of its ConfigMap for the standard mode
RELEASES = {
    "0.15.2": ("kserve-crd-0.15", "RawDeployment"),
    "0.16.0": ("kserve-0.16", "Standard"),
    "0.17.0": ("kserve-crd-0.17", "Standard"),
    "0.19.0": ("kserve-crd-0.19", "Standard"),
    "0.20.0": ("kserve", "Standard"),
}
NOT_RUN = [release for release, (part, word) in RELEASES.items() if "crd" in part]


@pytest.fixture(scope="session")
def released(optional_part):
    """`released("0.15.2", "NAME.yaml")`: that release's own file."""

    def released(release: str, name: str) -> dict:
        (path,) = optional_part(RELEASES[release][0]).rglob(name)
        # a schema has more than 20,000 lines, which take Python's own parser seconds
        (document,) = [document for document in yaml.load_all(path.read_text(), yaml.CSafeLoader) if document]
        return document

    return released


def group_of(release: str) -> str:
    return f"v{release.replace('.', '-')}.crd-test.gpuops.nim"


@pytest.fixture(scope="module")
def schemas(released, kubectl, until):
    """The cluster knows the InferenceService of each release, in a group of its own."""
    crds = [released(release, "serving.kserve.io_inferenceservices.yaml") for release in NOT_RUN]
    for release, crd in zip(NOT_RUN, crds, strict=True):
        crd["spec"]["group"] = group_of(release)
        crd["metadata"]["name"] = f"inferenceservices.{group_of(release)}"
        del crd["spec"]["names"]["shortNames"]  # isvc is the real one's
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": crds}))
    for release in NOT_RUN:
        offered = ("api-resources", f"--api-group={group_of(release)}", "-o", "name")
        until(lambda offered=offered: kubectl(*offered), "the API server to offer it")
    yield
    kubectl("delete", "crd", "--wait=false", *(crd["metadata"]["name"] for crd in crds))


@pytest.fixture(params=NOT_RUN)
def dry_run(request, schemas, kubectl):
    """What the server would store; it refuses what it does not know."""

    def dry_run(isvc: dict) -> dict:
        isvc = {**isvc, "apiVersion": f"{group_of(request.param)}/v1beta1"}
        strict = ("--server-side", "--dry-run=server", "--validate=strict", "-o", "yaml")
        return yaml.safe_load(kubectl("apply", *strict, "-f", "-", stdin=yaml.safe_dump(isvc)))

    return dry_run


def rendered(service: str) -> dict:
    return manifests.inference_service(spec.read(options(**SERVICES[service])), "Standard")


@pytest.mark.parametrize("service", SERVICES)
def test_the_schema_takes_our_manifest_as_it_is(dry_run, service):
    isvc = rendered(service)
    stored = dry_run(isvc)["spec"]["predictor"]
    for field, value in isvc["spec"]["predictor"].items():
        assert field in stored
        if not isinstance(value, (dict, list)):
            assert stored[field] == value


def test_the_schema_refuses_what_it_does_not_know(dry_run):
    isvc = rendered("fixed")
    isvc["spec"]["canary"] = []  # came with 0.20
    with pytest.raises(AssertionError, match=r"\.spec\.canary: field not declared"):
        dry_run(isvc)


@pytest.mark.parametrize(("release", "word"), [(release, word) for release, (_, word) in RELEASES.items()])
def test_the_config_map_of_a_release_tells_its_word(released, release, word):
    config = kserve_config.parse(released(release, "inferenceservice.yaml"))
    assert kserve_config.word_for(config) == word
    assert kserve_config.word_for(config, f"kserve/kserve-controller:v{release}") == word
