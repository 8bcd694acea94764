# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What has to be there before the first container of a pod, and nodes that do not let a pod in or throw it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..states import TEMPLATE_HASH, Object, condition, newest_set, pod_events
from . import quote
from .model import Case, Context, Finding, Rule

VOLUME = Rule(
    "volume",
    "A volume can't be attached to the node or mounted into the pod: events `FailedMount`, `FailedAttachVolume`.",
    (
        Case(
            "multi-attach",
            r"multi-attach|already (exclusively )?attached to|used by pod",
            "the volume can be on one node at a time, and is still on another.",
            (
                "wait until the other pod is gone; for more than one pod or node take storage that allows "
                "ReadWriteMany "
                "(on Alibaba Cloud: NAS), or update_strategy: in_place"
            ),
            'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node',
            lasting=True,
            patience=120,
        ),
        Case(
            "secret",
            r'secret "(?P<what>[^"]+)" not found|references non-existent secret key',
            "the secret {what} that a volume is made of does not exist in namespace {namespace}, or lacks a key.",
            "create it, or correct the volume's reference",
            'MountVolume.SetUp failed for volume "trust" : secret "company-ca" not found',
            lasting=True,
        ),
        Case(
            "configmap",
            r'configmap "(?P<what>[^"]+)" not found|references non-existent config key',
            "the ConfigMap {what} that a volume is made of does not exist in namespace {namespace}, or lacks a key.",
            "create it, or correct the volume's reference",
            'MountVolume.SetUp failed for volume "files" : configmap "llama-files" not found',
            lasting=True,
        ),
        Case(
            "claim",
            r'persistentvolumeclaim "(?P<what>[^"]+)" not found',
            "the claim {what} was removed.",
            "make it again; that of cache is made if you set cache.size",
            'error processing PVC default/models: persistentvolumeclaim "models" not found',
            lasting=True,
        ),
        Case(
            "driver",
            r"not found in the list of registered csi drivers|no volume plugin matched|driver name .{0,60}not found",
            "the node has no driver for the volume.",
            "see that the storage's CSI plugin runs on the node: kubectl get pods -A -o wide, kubectl get csinodes",
            "driver name nasplugin.csi.alibabacloud.com not found in the list of registered CSI drivers",
            lasting=True,
        ),
        Case(
            "denied",
            r"access denied by server|permission denied|not permitted",
            "the storage does not let the node in.",
            "allow the node's address in the export's or the NAS's permission group",
            "mount.nfs: access denied by server while mounting 10.0.0.7:/models",
            lasting=True,
        ),
        Case(
            "unreachable",
            (
                r"connection timed out|no route to host|connection refused|name or service not known"
                r"|network is unreachable"
            ),
            "the node can't reach the storage.",
            (
                "check the mount target's address and network (for NAS: in the cluster's VPC), and the firewall "
                "for port 2049"
            ),
            "mount.nfs: Connection timed out",
            lasting=True,
        ),
        Case(
            "attach",
            r"attachvolume|failedattachvolume",
            "the volume can't be attached to the node.",
            "look at the message and at the storage's CSI plugin: kubectl get volumeattachments",
            'AttachVolume.Attach failed for volume "pvc-1" : rpc error: code = Internal desc = disk is in another zone',
            lasting=True,
        ),
        Case(
            "mount",
            r"",
            "a volume can't be mounted into the pod.",
            "look at the message: kubectl -n {namespace} describe pod {name}",
            'MountVolume.SetUp failed for volume "cache" : mount failed: exit status 32',
            lasting=True,
            confidence="likely",
        ),
    ),
)
SANDBOX = Rule(
    "sandbox",
    "The node can't make the pod's frame, in which its containers run: event `FailedCreatePodSandBox`.",
    (
        Case(
            "runtime-class",
            r'no runtime for "?(?P<what>[\w.-]+)|runtimehandler "?(?P<other>[\w.-]+)',
            "the node's container runtime has no handler {what} for the pod's RuntimeClass.",
            (
                "set it up on the node (nvidia-ctk runtime configure), or take runtimeClassName out of pod_patch where "
                "the default runtime hands in GPUs"
            ),
            (
                "Failed to create pod sandbox: rpc error: desc = failed to get sandbox runtime: no runtime for "
                '"nvidia" is configured'
            ),
            lasting=True,
        ),
        Case(
            "network",
            r"\bcni\b|setup network|network plugin|failed to (assign|allocate).{0,40}(ip|address)|no .{0,20}ip address",
            "the node can't give the pod a network.",
            (
                "see that the network plugin runs on the node (kubectl -n kube-system get pods -o wide) and has "
                "addresses left"
            ),
            'failed to setup network for sandbox "0a1b": plugin type="terway" failed (add): no available IP address',
            lasting=True,
        ),
        Case(
            "other",
            r"",
            "the node can't make the pod's frame.",
            "look at the message, and at the kubelet's and the container runtime's logs on the node",
            "Failed to create pod sandbox: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
            lasting=True,
            confidence="likely",
        ),
    ),
)
_BEFORE_START = {"FailedMount": VOLUME, "FailedAttachVolume": VOLUME, "FailedCreatePodSandBox": SANDBOX}
_FAILED = tuple(_BEFORE_START)
_PROGRESS = ("Pulling", "Pulled", "Created", "Started", "SuccessfulAttachVolume")


def not_prepared(pod: Object, context: Context) -> Iterator[Finding]:
    statuses = pod.get("status", {})
    all_of_them = [*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ())]
    states = [status.get("state", {}) for status in all_of_them]
    if any("waiting" not in state for state in states):
        return
    if any(state["waiting"].get("reason") not in ("ContainerCreating", "PodInitializing", None) for state in states):
        return
    told = pod_events(pod, context.seen.events, *_FAILED, *_PROGRESS)
    if not told or told[-1].get("reason") not in _FAILED:
        return
    last = told[-1]
    rule = _BEFORE_START[str(last["reason"])]
    # "timed out waiting for the condition" says less than the error before it
    said = [event for event in reversed(told) if event.get("reason") in _FAILED]
    for event in said:
        known = rule.first(f"{event.get('reason')} {event.get('message')}")
        if known and known[0].pattern:
            break
    else:
        event, known = last, rule.first(str(last.get("message")))
    if known and not context.young(pod["metadata"].get("creationTimestamp"), known[0]):
        case, values = known
        yield rule.finding(case, [quote.event(event)], pod, **{"what": values.get("other", ""), **values})


# -- evicted

EVICTED = Rule(
    "evicted",
    "A node has thrown the pod out, or not let it in though the scheduler chose it.",
    (
        Case(
            "volume-limit",
            r"usage of emptydir volume|exceeds the (total )?limit",
            "the node ended the pod because it wrote more than its ephemeral storage allows.",
            "use a claim for the model (cache), or raise the limit: of the emptyDir, or of ephemeral-storage",
            'Usage of EmptyDir volume "cache" exceeds the limit "20Gi".',
        ),
        Case(
            "disk",
            r"ephemeral-storage|inodes|diskpressure",
            "the node ended the pod because its disk ran full.",
            (
                "use a claim for the model (cache), free the node's disk, or take a node with a larger one (100 "
                "GB and more)"
            ),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 8Gi.",
        ),
        Case(
            "memory",
            r"low on resource: memory|memorypressure",
            "the node ended the pod because its memory ran out.",
            "set memory to what is really used, so that less is put on the node, or take a node with more",
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi.",
        ),
        Case(
            "device",
            r"unexpectedadmissionerror|devices unavailable|allocate failed",
            "the node had no healthy GPU left when the pod came, though it had said so.",
            "see the device plugin's log and the GPUs' health on the node (nvidia-smi); restart the device plugin",
            (
                "UnexpectedAdmissionError: Allocate failed due to requested number of devices unavailable for "
                "nvidia.com/gpu"
            ),
        ),
        Case(
            "preempted",
            r"preempt",
            "the pod had to make room for one of a higher priority.",
            "give the service a PriorityClass (priority_class_name), or add a node",
            "Preempting: Preempted in order to admit critical pod",
        ),
        Case(
            "other",
            r"",
            "the node has ended the pod.",
            "look at the message: kubectl -n {namespace} describe pod {name}",
            "NodeShutdown: Pod was terminated in response to imminent node shutdown.",
            confidence="likely",
        ),
    ),
)


def evicted(context: Context) -> Iterator[Finding]:
    """What befell pods of the newest revision; whoever replaces them may have more luck, or the same again."""
    current = newest_set(context.seen)
    mark = (current or {}).get("metadata", {}).get("labels", {}).get(TEMPLATE_HASH)
    waiting = [pod for pod in context.pods if condition(pod, "Ready").get("status") != "True"]
    failed = [
        pod
        for pod in context.seen.pods
        if pod.get("status", {}).get("phase") == "Failed"
        and pod["metadata"].get("labels", {}).get(TEMPLATE_HASH) == mark
        and pod["status"].get("reason")
    ]
    if mark is None or not failed or (context.pods and not waiting):
        return
    last = max(failed, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    status = last["status"]
    known = EVICTED.first(f"{status.get('reason')} {status.get('message', '')}")
    if known:
        same = [pod for pod in failed if pod["status"].get("reason") == status["reason"]]
        evidence = [f"pod {last['metadata']['name']}: {status['reason']}: {status.get('message', '')}"]
        evidence += [f"so ended {len(same)} pods of this revision"] if len(same) > 1 else []
        yield EVICTED.finding(replace(known[0], heals=len(same) < 3, lasting=True), evidence, last)
