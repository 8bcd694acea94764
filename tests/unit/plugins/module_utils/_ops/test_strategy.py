# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""What ``auto`` means where nodes have room; that they are looked at as the scheduler does is tested in `capacity`."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Listing
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden
from ansible_collections.gpuops.nim.plugins.module_utils._ops import strategy
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

NODE = {
    "metadata": {"name": "gpu-1", "labels": {}},
    "spec": {},
    "status": {
        "allocatable": {"nvidia.com/gpu": "8", "cpu": "200", "memory": "2000Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}

UNSEEN = Forbidden("no", verb="list", group="", resource="resourcequotas", namespace="default")


class Client:
    def __init__(self, quotas=()):
        self.quotas, self.asked = quotas, []

    def list(self, api_version, kind, namespace=None, **how):
        self.asked.append((kind, namespace))
        if kind == "ResourceQuota" and isinstance(self.quotas, Exception):
            raise self.quotas
        return Listing({"Node": [NODE], "ResourceQuota": self.quotas}.get(kind, []), "1")


def quota(hard, used, **spec):
    one = {"requests.nvidia.com/gpu": hard}
    status = {"hard": one, "used": {"requests.nvidia.com/gpu": used}}
    return {"metadata": {"name": "team"}, "spec": {"hard": one, **spec}, "status": status}


def service():
    isvc = scene.wanted()
    isvc["metadata"]["namespace"] = "default"
    return isvc


@pytest.mark.parametrize(
    ("quotas", "chosen", "why"),
    [
        ([], strategy.SURGE, "node gpu-1 has room"),
        ([quota("2", "1")], strategy.SURGE, "node gpu-1 has room"),
        ([quota("1", "1")], strategy.IN_PLACE, "ResourceQuota team has no room for a second pod now"),
        ([quota("1", "1", scopes=["BestEffort"])], strategy.SURGE, "node gpu-1 has room"),
        (UNSEEN, strategy.SURGE, "node gpu-1 has room"),
    ],
)
def test_a_quota_has_to_have_room_for_a_second_pod_too(quotas, chosen, why):
    word, said = strategy.Chooser(Client(quotas)).choose(service(), {})
    assert (word, why in said) == (chosen, True), said


def test_the_quotas_room_for_one_is_not_the_next_ones():
    client = Client([quota("3", "2")])
    chooser = strategy.Chooser(client)
    assert [chooser.choose(service(), {})[0] for _ in range(2)] == [strategy.SURGE, strategy.IN_PLACE]
    assert client.asked.count(("ResourceQuota", "default")) == 1
