# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that no machine without the hardware, or without a big cluster, can have: what was said of them, and by whom.

The words are those of public logs and of the programs' sources. `observe.py` builds the objects around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Recorded:
    """One fault as it was seen.

    waiting: reason and message of the container's state. log: its last words when it ended (exit_code). events: reason
    and message of the pod's events. status: more of the pod's status. isvc, deployment: conditions of these, by type.
    node: name of the node, "" for a pod that has none; node_events and conditions: what is said of the node.
    """

    name: str
    rows: Sequence[int]
    cause: str
    waiting: tuple[str, str] | None = None
    log: str = ""
    exit_code: int = 1
    reason: str = "Error"
    events: Sequence[tuple[str, str]] = ()
    status: Object = field(default_factory=dict)
    isvc: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    deployment: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    node: str = "gpu-1"
    node_events: Sequence[tuple[str, str]] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)


_IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
_PULLED = f'Failed to pull image "{_IMAGE}": '
_CONTAINERD = f'rpc error: code = Unknown desc = failed to pull and unpack image "{_IMAGE}": '
_RESOLVE = _CONTAINERD + f'failed to resolve reference "{_IMAGE}": '
_GET = 'failed to do request: Head "https://nvcr.io/v2/nim/meta/llama3-8b-instruct/manifests/1.0.0": '


def _pull(name: str, rows: Sequence[int], cause: str, said: str) -> Recorded:
    events = [("Failed", _PULLED + said), ("Failed", "Error: ErrImagePull")]
    return Recorded(name, rows, cause, waiting=("ErrImagePull", said), events=events)


def _ended(name: str, rows: Sequence[int], cause: str, log: str, **more: Any) -> Recorded:
    waiting = ("CrashLoopBackOff", "back-off 20s restarting failed container=kserve-container pod=llama-predictor")
    return Recorded(name, rows, cause, waiting=waiting, log=log, **more)


def _unscheduled(name: str, rows: Sequence[int], cause: str, said: str) -> Recorded:
    pod = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}]}
    return Recorded(name, rows, cause, events=[("FailedScheduling", said)], status=pod, node="")


RECORDED = (
    # -- pulls
    _pull(
        "crio-401",
        [1],
        "NGC refuses the key of the pull secret (401)",
        "rpc error: code = Unknown desc = unable to retrieve auth token: invalid username/password: authentication "
        "required",
    ),
    _pull(
        "crio-402",
        [3],
        "the account has no subscription (402)",
        f"initializing source docker://{_IMAGE}: Requesting bearer token: invalid status code from registry 402 "
        "(Payment Required)",
    ),
    _pull(
        "docker-401",
        [1],
        "NGC refuses the key of the pull secret (401)",
        "Error response from daemon: Head https://nvcr.io/v2/nim/meta/llama3-8b-instruct/manifests/1.0.0: "
        "unauthorized: authentication required",
    ),
    _pull(
        "docker-denied",
        [4],
        "the key has no right to this repository (403)",
        'denied: {"errors": [{"code": "DENIED", "message": "Access Denied"}]}',
    ),
    _pull(
        "anonymous-403",
        [2],
        "no pull secret was used",
        _RESOLVE + "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to "
        "https://nvcr.io/proxy_auth?scope=repository%3Animeta%2Fllama3-8b-instruct%3Apull: 403 Forbidden",
    ),
    _pull(
        "pull-timeout", [7], "the registry can't be reached", _RESOLVE + _GET + "dial tcp 34.214.0.1:443: i/o timeout"
    ),
    _pull("pull-handshake", [7], "the registry can't be reached", _RESOLVE + _GET + "net/http: TLS handshake timeout"),
    _pull(
        "pull-reset",
        [7],
        "the connection to the registry is cut",
        _CONTAINERD + "failed to copy: read tcp 10.0.0.7:51724->34.214.0.1:443: read: connection reset by peer",
    ),
    _pull(
        "pull-deadline",
        [7],
        "the registry is too slow",
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    ),
    _pull(
        "pull-proxy",
        [34],
        "the node's proxy refuses",
        _RESOLVE + _GET + "Proxy Authentication Required",
    ),
    _pull(
        "pull-architecture",
        [],
        "the image is for another processor",
        "rpc error: code = NotFound desc = failed to pull and unpack image "
        f'"{_IMAGE}": no match for platform in manifest: not found',
    ),
    _pull(
        "pull-disk-full",
        [8],
        "the node's disk is full",
        "failed to extract layer sha256:1d2c0a: write /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/"
        "snapshots/101/fs/opt/nim/llm/lib.so: no space left on device",
    ),
    Recorded(
        "disk-pressure",
        [8, 16],
        "the node's disk is full, so the pod was evicted",
        status={
            "phase": "Failed",
            "reason": "Evicted",
            "message": "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 3Gi. "
            "Container kserve-container was using 28Gi, request is 0, has larger consumption of ephemeral-storage.",
        },
        events=[
            (
                "Evicted",
                "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 3Gi. Container "
                "kserve-container was using 28Gi, request is 0, has larger consumption of ephemeral-storage.",
            )
        ],
        node_events=[("NodeHasDiskPressure", "Node gpu-1 status is now: NodeHasDiskPressure")],
        conditions={"DiskPressure": "True"},
    ),
    # -- volumes
    Recorded(
        "attach-multi",
        [18],
        "another node still has the volume",
        waiting=("ContainerCreating", ""),
        events=[
            (
                "FailedAttachVolume",
                'Multi-Attach error for volume "pvc-6d2c" Volume is already exclusively attached to one node and '
                "can't be attached to another",
            )
        ],
    ),
    Recorded(
        "attach-failed",
        [18],
        "the volume can't be attached to the node",
        waiting=("ContainerCreating", ""),
        events=[
            (
                "FailedAttachVolume",
                'AttachVolume.Attach failed for volume "d-bp1": rpc error: code = Internal desc = '
                "InstanceTypeNotSupportDiskCategory",
            )
        ],
    ),
    _unscheduled(
        "zone-older",
        [17],
        "the volume is in another zone",
        "0/3 nodes are available: 3 node(s) had volume node affinity conflict. preemption: 0/3 nodes are available: 3 "
        "Preemption is not helpful for scheduling.",
    ),
    # -- scheduling
    _unscheduled(
        "taint-older",
        [20],
        "the nodes have a taint that is not tolerated",
        "0/3 nodes are available: 3 node(s) had taint {nvidia.com/gpu: true}, that the pod didn't tolerate.",
    ),
    _unscheduled(
        "taint-and-gpu",
        [20],
        "the GPU nodes have a taint that is not tolerated",
        "0/5 nodes are available: 2 node(s) had untolerated taint {nvidia.com/gpu: present}, 3 Insufficient "
        "nvidia.com/gpu. preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.",
    ),
    # -- the machine
    Recorded(
        "toolkit",
        [24],
        "the container toolkit does not find the driver",
        waiting=(
            "RunContainerError",
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create "
            "failed: unable to start container process: error during container init: error running hook #0: error "
            "running hook: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy' nvidia-container-cli: "
            "initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: no such "
            "file or directory: unknown",
        ),
        exit_code=128,
        reason="StartError",
    ),
    _ended("nvml-old", [24], "the container toolkit is not wired", "Failed to initialize NVML: Unknown Error\n"),
    _ended(
        "driver-mismatch",
        [25],
        "driver and library on the node do not fit",
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.90\n",
    ),
    _ended(
        "driver-insufficient",
        [25],
        "the node's driver is too old",
        "RuntimeError: CUDA driver version is insufficient for CUDA runtime version\n",
    ),
    _ended(
        "driver-804",
        [25],
        "the node's driver is too old",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on "
        "non supported HW\n",
    ),
    _ended(
        "nvlink-graph",
        [43],
        "the GPUs fail",
        "(VllmWorkerProcess pid=231) ERROR Capturing the model for CUDA graphs.\n"
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered\n",
    ),
    Recorded(
        "xid-node",
        [43],
        "the GPU fell off the bus",
        waiting=("CrashLoopBackOff", "back-off 40s restarting failed container=kserve-container"),
        log="RuntimeError: CUDA error: unspecified launch failure\n",
        node_events=[
            ("XidError", "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
        ],
    ),
    # -- NIM
    _ended(
        "cache-1-0-warning",
        [13],
        "the cache is mounted read-only",
        "WARNING 07-22 17:45:33.111 caches.py:30] /mnt/models/cache is read-only, application may fail if model is not "
        "already present in cache\nException: Errors fetching files: issue a download request for file: "
        '"checksums.blake3"; the repo file list has not been validated\n',
    ),
    _ended(
        "cache-python",
        [14],
        "the cache belongs to another user",
        "PermissionError: [Errno 13] Permission denied: '/opt/nim/.cache/ngc'\n",
    ),
    _ended(
        "cache-full-python",
        [15],
        "the cache volume is full",
        "OSError: [Errno 28] No space left on device: '/opt/nim/.cache/ngc/hub/tmp8s'\n",
    ),
    _ended(
        "proxy-tunnel",
        [34],
        "the proxy refuses",
        "ERROR nim_sdk::hub::repo rust/nim-sdk/src/hub/repo.rs:119: error sending request for url "
        "(https://api.ngc.nvidia.com/v2/org/nim/team/meta/models/llama3-8b-instruct/hf/files): client error (Connect): "
        "tunnel error: proxy authorization required\n",
    ),
    _ended(
        "ca-python",
        [35],
        "NIM does not trust the certificate",
        "urllib3.exceptions.SSLError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self signed "
        "certificate in certificate chain (_ssl.c:1007)\n",
    ),
    _ended(
        "dns-python",
        [36],
        "a name is not found",
        "urllib3.exceptions.NameResolutionError: Failed to resolve 'api.ngc.nvidia.com' ([Errno -3] Temporary failure "
        "in name resolution)\n",
    ),
    _ended(
        "profile-operator",
        [26],
        "NIM_MODEL_PROFILE names none of the image's profiles",
        "Unknown profiles provided: ['8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064e']\n",
    ),
    Recorded(
        "memory-node",
        [31],
        "the memory limit is too low",
        waiting=("CrashLoopBackOff", "back-off 10s restarting failed container=kserve-container"),
        log="INFO 07-22 17:45:33.111 model_runner.py:146] Loading model weights\n",
        exit_code=137,
        reason="OOMKilled",
    ),
    # -- rollouts
    Recorded(
        "deadline",
        [33],
        "the rollout's deadline passed while the model was still loading",
        deployment={
            "Progressing": (
                "ProgressDeadlineExceeded",
                'ReplicaSet "llama-predictor-7c9f" has timed out progressing.',
            )
        },
        status={"running": True},
    ),
    Recorded(
        "deadline-knative",
        [33],
        "Knative gave the revision up before the model was loaded",
        isvc={
            "PredictorReady": (
                "RevisionFailed",
                'Revision "llama-predictor-00001" failed with message: Initial scale was never achieved. '
                "ProgressDeadlineExceeded",
            )
        },
        node="",
        status={"absent": True},
    ),
    Recorded(
        "knative-refuses",
        [44],
        "Knative refuses the specification",
        isvc={
            "PredictorReady": (
                "ReconcileFailed",
                'fails to reconcile predictor: admission webhook "validation.webhook.serving.knative.dev" denied the '
                "request: validation failed: must not set the field(s): spec.template.spec.nodeSelector",
            )
        },
        node="",
        status={"absent": True},
    ),
)

# 42: not the service's fault but its caller's; nim_chat names it with the models that there are
ELSEWHERE = {42: "`nim_chat` answers it: the error lists the models that the service has"}
