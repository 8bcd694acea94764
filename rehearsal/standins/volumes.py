# SPDX-License-Identifier: GPL-3.0-or-later
"""A provisioner of local volumes: a folder for each claim, removed with it; the kubelet applies fsGroup to them.

Stands in for a cluster's storage driver; the volumes really hold data.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch

from rehearsal.layout import STORAGE_PROVISIONER

_HOSTNAME = "kubernetes.io/hostname"
_SELECTED = "volume.kubernetes.io/selected-node"
_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"


def provision(api: client.CoreV1Api, claim: Any, root: Path) -> None:
    """Make the volume of a claim that the scheduler has placed."""
    annotations = claim.metadata.annotations or {}
    placed = annotations.get(_PROVISIONER) == STORAGE_PROVISIONER and _SELECTED in annotations
    if claim.status.phase != "Pending" or not placed:
        return
    name = f"pvc-{claim.metadata.uid}"
    folder = root / name
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_PROVISIONED_BY: STORAGE_PROVISIONER}},
        "spec": {
            "capacity": {"storage": claim.spec.resources.requests["storage"]},
            "accessModes": claim.spec.access_modes,
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim.spec.storage_class_name,
            "local": {"path": str(folder)},
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": _HOSTNAME, "operator": "In", "values": [annotations[_SELECTED]]}]}
                    ]
                }
            },
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace,
                "name": claim.metadata.name,
                "uid": claim.metadata.uid,
            },
        },
    }
    try:
        api.create_persistent_volume(body)
    except client.ApiException as error:
        if error.status != 409:  # made by an earlier event of the same claim
            raise
    print(f"{claim.metadata.namespace}/{claim.metadata.name}: {name}")


def release(api: client.CoreV1Api, volume: Any) -> None:
    """Remove the volume and the data of a claim that is gone."""
    ours = (volume.metadata.annotations or {}).get(_PROVISIONED_BY) == STORAGE_PROVISIONER
    if ours and volume.status.phase == "Released":
        shutil.rmtree(volume.spec.local.path, ignore_errors=True)
        api.delete_persistent_volume(volume.metadata.name)
        print(f"{volume.metadata.name}: removed")


def serve(kubeconfig: str, root: Path) -> None:
    config.load_kube_config(kubeconfig)
    api = client.CoreV1Api()
    while True:
        try:
            claims = api.list_persistent_volume_claim_for_all_namespaces()
            for claim in claims.items:
                provision(api, claim, root)
            for volume in api.list_persistent_volume().items:
                release(api, volume)
            # a claim's event is waited for; released volumes can wait for the next round
            stream = watch.Watch().stream(
                api.list_persistent_volume_claim_for_all_namespaces,
                resource_version=claims.metadata.resource_version,
                timeout_seconds=2,
            )
            next(stream, None)
        except Exception as error:  # the API server may be down, frozen or restarting: that is rehearsed here
            print(f"again in a second: {type(error).__name__}")
            time.sleep(1)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
