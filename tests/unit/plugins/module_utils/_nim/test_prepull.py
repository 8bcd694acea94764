# SPDX-License-Identifier: GPL-3.0-or-later
"""The pod that fetches an image, and what each of its ends means."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import prepull

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.3"
MAIN = {
    "name": "kserve-container",
    "image": "old",
    "imagePullPolicy": "Always",
    "env": [{"name": "SECRET", "value": "x"}],
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
    "securityContext": {"allowPrivilegeEscalation": False},
    "volumeMounts": [{"name": "m", "mountPath": "/m"}],
}
ISVC = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "llama", "namespace": "nim", "uid": "u"},
    "spec": {
        "predictor": {
            "containers": [MAIN],
            "imagePullSecrets": [{"name": "ngc-secret"}],
            "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": "m", "emptyDir": {}}],
            "nodeSelector": {"a": "b"},
        }
    },
}


def test_it_goes_the_services_way_to_the_registry_and_takes_nothing_else_along() -> None:
    pod = prepull.pod(ISVC, IMAGE, "node-1", 60)
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert (spec["nodeName"], container["image"]) == ("node-1", IMAGE)
    assert spec["imagePullSecrets"] == [{"name": "ngc-secret"}]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert container["imagePullPolicy"] == "Always"
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}
    assert container["env"] == [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    assert "nvidia.com/gpu" not in str(pod)
    assert not {"volumes", "nodeSelector"} & spec.keys()
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", 60)
    # neither the Service nor the wait for the service may take it for one of its pods
    assert pod["metadata"]["labels"] == {"gpuops.nim/pre-pull": "llama"}
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "u"


def pod(phase: str = "Pending", *, reason: str = "", **state: Any) -> dict[str, Any]:
    statuses = [{"name": "kserve-container", "image": IMAGE, "state": state}] if state else []
    status = {"phase": phase, "containerStatuses": statuses, "conditions": [{"type": "PodScheduled", "status": "True"}]}
    if reason:
        status |= {"reason": reason, "message": f"because of {reason}"}
    made = prepull.pod(ISVC, IMAGE, "node-1", 60)
    return {**made, "metadata": {**made["metadata"], "name": "p", "uid": "pod"}, "status": status}


def failed(text: str) -> dict[str, Any]:
    return {"involvedObject": {"uid": "pod"}, "reason": "Failed", "message": f"Failed to pull image: {text}"}


PULLED = {"involvedObject": {"uid": "pod"}, "reason": "Pulled", "message": "Successfully pulled image"}
BACK_OFF = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}}


@pytest.mark.parametrize(
    ("seen", "events", "state", "said"),
    [
        (pod(), [], "waiting", ""),
        (pod(waiting={"reason": "ContainerCreating"}), [], "waiting", ""),
        (pod(waiting={"reason": "ContainerCreating"}), [PULLED], "pulled", ""),
        (pod("Succeeded", terminated={"exitCode": 0}), [], "pulled", ""),
        (pod("Failed", terminated={"exitCode": 128, "reason": "StartError"}), [], "pulled", ""),
        (pod(waiting={"reason": "CreateContainerError"}), [], "pulled", ""),
        (pod(**BACK_OFF), [failed("not found")], "refused", "no such image or tag"),
        (pod(**BACK_OFF), [failed("401 Unauthorized")], "refused", "refuses the key"),
        (pod(**BACK_OFF), [failed("no space left on device")], "refused", "disk is full"),
        (pod(**BACK_OFF), [failed("503 Service Unavailable")], "waiting", "trouble of its own"),
        (pod(**BACK_OFF), [failed("dial tcp: i/o timeout")], "waiting", "can't reach the registry"),
        (pod("Failed", reason="OutOfcpu"), [], "skipped", "OutOfcpu"),
        (pod("Failed", reason="Evicted"), [], "refused", "Evicted"),
    ],
)
def test_what_became_of_it(seen: dict[str, Any], events: list[dict[str, Any]], state: str, said: str) -> None:
    answer = prepull.judge(seen, events)
    assert answer.state == state
    assert said in answer.detail
