# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""The wait for Deployments, look by look; what they are made of is tested on a real cluster."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ops import batch
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError

META = {"name": "controller", "namespace": "kserve"}
EXCEEDED = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too late"}


def deployment(available, *conditions):
    counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": available}
    return {
        "kind": "Deployment",
        "metadata": {**META, "generation": 3},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "controller"}}},
        "status": {"observedGeneration": 3, **counts, "conditions": list(conditions)},
    }


UP, COMING, GIVEN_UP = deployment(1), deployment(0), deployment(0, EXCEEDED)


class Mirror:
    """Each look finds the next of the Deployments; ``None``: nothing has been listed yet."""

    def __init__(self, looks):
        self.looks = [None, *looks]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def wait(self, timeout):
        self.looks = self.looks[1:] or self.looks
        return self.looks[0] is not None

    def trouble(self):
        return None

    def objects(self, kind):
        return [self.looks[0]] if kind == "Deployment" and self.looks[0] else []


@pytest.fixture
def wait(monkeypatch):
    def wait(*looks, timeout=60.0):
        monkeypatch.setattr(batch, "Mirror", lambda *args: Mirror(looks))
        task = batch.Batch(None, check_mode=False, diff=False, progress=lambda line: None)
        task.wait_rolled_out([{"kind": "Deployment", "metadata": META}], timeout)

    return wait


def test_what_had_been_given_up_before_gets_the_time_that_there_is(wait):
    wait(None, GIVEN_UP, GIVEN_UP, UP)
    with pytest.raises(OpsError, match=r"after 0.2 s \(wait_timeout\): too late"):
        wait(GIVEN_UP, timeout=0.2)


@pytest.mark.parametrize("looks", [(COMING, GIVEN_UP), (GIVEN_UP, COMING, GIVEN_UP)])
def test_what_is_given_up_while_we_look_ends_the_wait(wait, looks):
    with pytest.raises(OpsError, match="its controller has given up: too late"):
        wait(*looks)
