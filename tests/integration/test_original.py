# SPDX-License-Identifier: GPL-3.0-or-later
"""The vars file with the original's exact shape, deployed by site.yml, beside what arena makes of its line."""

from __future__ import annotations

import pytest

from rehearsal.layout import SMALL_REQUESTS
from rehearsal.standins.ngc import KEYS
from tests.integration.test_arena import LINE, NAME

pytestmark = pytest.mark.rehearsal

# what a pod has of its own, and what arena leaves out to its users' harm
OF_THE_POD = {"nodeName", "hostname", "volumes"}
BETTER = {"lifecycle", "startupProbe", "readinessProbe", "livenessProbe", "ports"}


@pytest.fixture(scope="module")
def pods(arena, monitoring_crds, play, new_namespace, kubectl, apply, objects, run, until):
    """Those of arena and of site.yml, and the namespace of the second."""

    def namespace(purpose):
        name = new_namespace(purpose)
        kubectl("label", "namespace", name, "=".join(SMALL_REQUESTS))
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        metadata = {"name": "nim-model", "namespace": name}
        apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
        return name

    def pod(name):
        return next((pod for pod in objects("pods", name).values()), None)

    theirs, ours = namespace("original-arena"), namespace("original")
    arena("serve", "kserve", f"--namespace={theirs}", *LINE)
    args = ("-e", "@playbooks/vars/original.yml", "-e", f"nim_predictor_namespace={ours}")
    done = run("ansible-playbook", "site.yml", *args, env={"NGC_API_KEY": KEYS["valid"]})
    assert "You said:" in done.stdout
    yield until(lambda: pod(theirs), "arena's pod"), pod(ours), ours
    kubectl("delete", "inferenceservice", NAME, "-n", theirs)  # its GPU


def test_the_pod_is_arenas(pods):
    theirs, ours, _ = (one and one["spec"] if isinstance(one, dict) else one for one in pods)
    for key in theirs.keys() - OF_THE_POD - {"containers", "terminationGracePeriodSeconds"}:
        assert ours[key] == theirs[key], key
    (wanted,), (container,) = theirs["containers"], ours["containers"]
    assert set(container) - set(wanted) <= BETTER
    for key in wanted.keys() - BETTER - {"env", "volumeMounts"}:
        assert container[key] == wanted[key], key
    assert [port["containerPort"] for port in container["ports"]] == [8000]
    assert _by_name(container["env"]) == _by_name(wanted["env"])
    # the token has another name in every pod
    assert _own(container["volumeMounts"]) == _own(wanted["volumeMounts"])
    assert _own(ours["volumes"]) == _own(theirs["volumes"])


def test_the_objects_beside_it_are_arenas(pods, objects):
    namespace = pods[2]
    isvc = objects("inferenceservice", namespace)[NAME]
    assert isvc["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "external"
    (port,) = objects("service", namespace)[f"{NAME}-metric-svc"]["spec"]["ports"]
    assert (port["name"], port["port"]) == ("metric", 8000)
    monitor = objects("servicemonitor", namespace)[f"{NAME}-svcmonitor"]
    assert monitor["spec"]["endpoints"] == [{"port": "metric", "path": "/metrics", "interval": "15s"}]
    assert monitor["metadata"]["annotations"] == {"arms.prometheus.io/discovery": "true"}


def _by_name(items):
    return {item["name"]: item for item in items}


def _own(items):
    return {name: item for name, item in _by_name(items).items() if not name.startswith("kube-api-access")}
