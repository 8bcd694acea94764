# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking an object over, on managedFields as a real server writes them."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube import ownership

PORT = 'k:{"port":80,"protocol":"TCP"}'


def entry(manager: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsV1": fields, **more}


def service() -> dict[str, Any]:
    """Made by arena, with a finalizer of a controller's, a status, and a field that somebody edited."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "s",
            "labels": {"isvc": "s", "heritage": "Helm"},
            "finalizers": ["f"],
            "managedFields": [
                entry(
                    "arena",
                    {
                        "f:metadata": {"f:labels": {".": {}, "f:isvc": {}, "f:heritage": {}}},
                        "f:spec": {
                            "f:ports": {".": {}, PORT: {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}},
                            "f:type": {},
                        },
                    },
                ),
                entry("manager", {"f:metadata": {"f:finalizers": {".": {}, 'v:"f"': {}}}}),
                entry("kubectl-edit", {"f:spec": {"f:externalName": {}}}),
                entry("manager", {"f:status": {"f:loadBalancer": {}}}, subresource="status"),
            ],
        },
        "spec": {
            "ports": [{"name": "metric", "port": 80, "protocol": "TCP"}],
            "type": "ClusterIP",
            "externalName": "x",
        },
    }


def test_what_can_be_taken_is_told_by_its_holder() -> None:
    held = {manager: list(ownership.paths(fields)) for manager, fields in ownership.theirs(service()).items()}
    assert held == {
        "arena": [
            "metadata.labels.isvc",
            "metadata.labels.heritage",
            "spec.ports[port=80,protocol=TCP].name",
            "spec.ports[port=80,protocol=TCP].port",
            "spec.ports[port=80,protocol=TCP].protocol",
            "spec.type",
        ],
        "kubectl-edit": ["spec.externalName"],
    }


def test_taken_over_leaves_controllers_their_finalizers_and_the_status() -> None:
    after = service()
    mine = entry("gpuops.nim", {"f:spec": {"f:type": {}}}, operation="Apply")
    after["metadata"]["managedFields"] += [mine, entry("gpuops.nim-adopts", {"f:spec": {"f:type": {}}})]
    finalizers, status, ours = ownership.taken_over(after)
    assert (finalizers["manager"], status["manager"], status["subresource"]) == ("manager", "manager", "status")
    assert finalizers["fieldsV1"] == {"f:metadata": {"f:finalizers": {".": {}, 'v:"f"': {}}}}
    assert ours == mine


def test_without_leftovers_is_what_we_set_and_what_the_server_or_controllers_keep() -> None:
    live, after = service(), service()
    after["spec"]["ports"].append({"name": "ours", "port": 8000, "protocol": "TCP"})
    after["metadata"]["labels"]["team"] = "a"
    mine = {
        "f:metadata": {"f:labels": {"f:team": {}}},
        "f:spec": {"f:ports": {'k:{"port":8000,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:port": {}}}},
    }
    after["metadata"]["managedFields"].append(entry("gpuops.nim", mine, operation="Apply"))
    clean = ownership.without_leftovers(after, live)
    assert clean["metadata"]["labels"] == {"team": "a"}
    assert clean["metadata"]["finalizers"] == ["f"]
    assert clean["spec"] == {"ports": [{"name": "ours", "port": 8000, "protocol": "TCP"}], "type": "ClusterIP"}
    assert len(after["spec"]["ports"]) == 2


def test_a_list_item_that_we_share_stays_with_our_fields_alone() -> None:
    live, after = service(), service()
    mine = {"f:spec": {"f:ports": {PORT: {".": {}, "f:port": {}, "f:protocol": {}}}}}
    after["metadata"]["managedFields"].append(entry("gpuops.nim", mine, operation="Apply"))
    assert ownership.without_leftovers(after, live)["spec"]["ports"] == [{"port": 80, "protocol": "TCP"}]


def test_owned_is_what_we_applied_and_nothing_of_others() -> None:
    live = service()
    live["metadata"]["labels"]["team"] = "a"
    live["spec"]["ports"].append({"name": "ours", "port": 8000, "protocol": "TCP", "nodePort": 30000})
    mine = {
        "f:metadata": {"f:labels": {"f:team": {}}, "f:finalizers": {'v:"f"': {}}},
        "f:spec": {
            "f:ports": {'k:{"port":8000,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}},
            "f:selector": {},
        },
    }
    live["spec"]["selector"] = {"app": "x", "tier": "y"}
    live["metadata"]["managedFields"] += [
        entry("gpuops.nim", mine, operation="Apply"),
        entry("gpuops.nim", {"f:spec": {"f:type": {}}}),  # a patch: nothing that an apply would take away
    ]
    assert ownership.owned(live) == {
        "metadata": {"labels": {"team": "a"}, "finalizers": ["f"]},
        "spec": {
            "ports": [{"name": "ours", "port": 8000, "protocol": "TCP"}],
            "selector": {"app": "x", "tier": "y"},
        },
    }
    assert ownership.owned(service()) == {}
