# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What the key can do for each image that is wanted. A registry that can't be asked from here is not a bad key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.verdict import Verdict
from ansible_collections.gpuops.nim.plugins.module_utils._nim import contract
from ansible_collections.gpuops.nim.plugins.module_utils._ops import key_info
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok, warning
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene, Wanted


def verdict_for(scene: Scene, service: Wanted) -> Verdict | None:
    """``None`` where the service's image isn't known, or never pulled."""
    return _verdicts(scene).get(service.spec.image)


def _verdicts(scene: Scene) -> dict[str, Verdict]:
    """The verdict for each image, all asked at once."""
    images = list(dict.fromkeys(each.spec.image for each in scene.services if each.spec.image and _pulled(each)))
    return cast(
        "dict[str, Verdict]",
        scene.once("verdicts", lambda: dict(zip(images, key_info.ask(images, scene.params))) if images else {}),
    )


def _pulled(service: Wanted) -> bool:
    return service.spec.image_pull_policy != "Never"


def check(scene: Scene) -> Iterator[Row]:
    verdicts = _verdicts(scene)
    for service in scene.services:
        if not service.spec.image:
            yield ok("key", str(service), "not checked: a serving runtime says what its image is")
        elif not _pulled(service):
            yield ok("key", service.spec.image, "not asked: with image_pull_policy Never nobody pulls it")
    for image, verdict in verdicts.items():
        yield _row(scene, image, verdict)


def _row(scene: Scene, image: str, verdict: Verdict) -> Row:
    word = verdict.verdict.replace("_", " ")
    if verdict.good:
        return ok("key", image, verdict.cause or word)
    if not verdict.refused:
        remedy = verdict.remedy or "The nodes may have another way to the registry; if they have not, mend this one."
        return warning("key", image, f"could not be asked from here ({word}): {verdict.cause}", remedy)
    if others := _other_secrets(scene, image):
        said = f"{word} with what was given here: {verdict.cause.rstrip('.')}; {', '.join(others)} may hold more"
        return warning("key", image, said, verdict.remedy)
    return failure("key", image, f"{word}: {verdict.cause}", verdict.remedy)


def _other_secrets(scene: Scene, image: str) -> list[str]:
    """Pull secrets of the image's services that this run doesn't fill for its registry, and so can't judge."""
    found = []
    filled = scene.params["own_secrets"] if _login(scene, image) else ()
    for service in scene.services:
        if service.spec.image == image:
            for name in service.spec.image_pull_secrets:
                if name not in filled and _exists(scene, service.namespace, name):
                    found.append(f"Secret {service.namespace}/{name}")
    return list(dict.fromkeys(found))


def _login(scene: Scene, image: str) -> bool:
    """Whether a login for the image's registry was given."""
    parts = contract.parse_image(image)
    name = f"{parts.registry}/{parts.repository}/"
    hosts = [str(each["host"]) for each in scene.params["registries"]]
    if scene.params["ngc_api_key"]:
        hosts.append("nvcr.io")
    return any(name.startswith(f"{host.rstrip('/')}/") for host in hosts)


def _exists(scene: Scene, namespace: str, name: str) -> bool:
    try:
        return scene.get("v1", "Secret", name, namespace) is not None
    except KubeError:
        return False
