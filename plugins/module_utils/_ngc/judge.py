# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What a registry's refusal means. One table for all registries; only a 401 needs a second opinion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .caller import NEW_KEY
from .verdict import Judgement, KeyInfo

NGC = "nvcr.io"
# a key may pull if it was made for one of these services
_PULLING = ("artifact-catalog", "private-registry")


@dataclass(frozen=True)
class Refusal:
    """What a registry said no to.

    step: ``token`` (a login was to become a token) or ``manifest`` (the image was asked for). scope: the registry says
    that it knows the login and that this repository is not within its rights.
    """

    host: str
    repository: str
    step: str
    status: int
    said: str
    scope: bool = False

    @property
    def page(self) -> str:
        """Where the terms of an image of NGC are accepted; empty for others."""
        parts = self.repository.split("/")
        if self.host != NGC or len(parts) != 3:
            return ""
        return "https://catalog.ngc.nvidia.com/orgs/{}/teams/{}/containers/{}".format(*parts)


def without_login(refusal: Refusal) -> Judgement:
    """Nobody may have the image just so, and there is nothing to log in with."""
    if refusal.status == 451:
        return _blocked(refusal)
    if refusal.status not in (401, 402, 403):
        said = f"{refusal.host} answers {refusal.status} ({refusal.said}), which says nothing about the image."
        return Judgement("unknown", said, "Try again later.")
    if refusal.host == NGC:
        return Judgement(
            "not_entitled",
            f"Nobody may pull this image from {NGC} without a key, and none was given.",
            "Set ngc_api_key, or the variable NGC_API_KEY.",
        )
    # nodes may have logins of their own, such as those of a cloud's registry
    return Judgement(
        "unknown",
        f"{refusal.host} wants a login for this image, and `registries` has none for it.",
        "Add it to registries, unless the nodes have a login of their own.",
    )


def with_login(refusal: Refusal, user: str, key: Optional[KeyInfo], confirmed: bool) -> Judgement:
    """The registry refused a login.

    :param user: whose login, for messages. ``key``: what NGC says about it, where it was an NGC key at NGC.
    :param confirmed: a registry of another house refused the same login again when no image was asked for.
    """
    status, host = refusal.status, refusal.host
    if status == 451:
        return _blocked(refusal)
    if status == 402:
        whose = f" (organisation {key.organisation})" if key and key.organisation else ""
        return Judgement(
            "not_entitled",
            f"{host} takes the login, but its account{whose} has no subscription for this image (402).",
            "Get an NVIDIA AI Enterprise licence or join the NVIDIA Developer Program with this account, or use a key "
            "of an organisation that has one." + _terms(refusal),
        )
    if status == 403 or (status == 401 and refusal.scope):
        return _no_right(refusal, user, key)
    if status != 401:
        said = f"{host} answers {status} ({refusal.said}), which says nothing about the login."
        return Judgement("unknown", said, "Try again later.")
    if refusal.step != "token" and refusal.step != "login":
        return Judgement(
            "unknown",
            f"{host} takes the login and gives a token, and then does not take that token (401).",
            "Try again later.",
        )
    if host != NGC:
        return _elsewhere(refusal, user, confirmed)
    return _ngc(refusal, key)


def _ngc(refusal: Refusal, key: Optional[KeyInfo]) -> Judgement:
    if key and key.verdict == "invalid":
        cause = f"{NGC} refuses this key (401), and NGC does not know it: it is wrong, expired or revoked."
        return Judgement("invalid", cause, NEW_KEY)
    if key and key.verdict == "expired":
        return Judgement("expired", f"{NGC} refuses this key (401), and NGC says that it has expired.", NEW_KEY)
    if key and key.verdict == "valid":
        if key.products is not None and not set(_PULLING) & set(key.products):
            return _no_right(refusal, "", key)
        return Judgement(
            "unknown",
            f"{NGC} refuses this key (401), but NGC's key service knows it and calls it good.",
            "A new key takes a moment; try again. If it stays so, make another: the registry is the one that counts.",
        )
    why = f" {key.cause}" if key else ""
    return Judgement(
        "unknown",
        f"{NGC} refuses this key (401), and whether that is the key's fault could not be established: NGC's key "
        f"service gave no answer.{why}",
        "Try again when it answers. If it is your network that keeps it away, the key is most likely wrong, expired "
        "or revoked.",
    )


def _elsewhere(refusal: Refusal, user: str, confirmed: bool) -> Judgement:
    if confirmed:
        return Judgement(
            "invalid",
            f"{refusal.host} refuses the login of {user} (401).",
            f"Correct username and password of {refusal.host} in registries.",
        )
    return Judgement(
        "unknown", f"{refusal.host} refused the login of {user} (401) once and then not again.", "Try again."
    )


def _no_right(refusal: Refusal, user: str, key: Optional[KeyInfo]) -> Judgement:
    if key and key.products is not None and not set(_PULLING) & set(key.products):
        return Judgement(
            "not_entitled",
            f"This key may not pull images ({refusal.status}): it was made for other services "
            f"({', '.join(key.products) or 'none'}).",
            "Make a key with the service NGC Catalog at https://org.ngc.nvidia.com/setup/api-keys.",
        )
    if refusal.host == NGC:
        return Judgement(
            "not_entitled",
            f"This key has no right to {refusal.repository} ({refusal.status}).",
            "Use a key of an organisation that has it." + _terms(refusal),
        )
    return Judgement(
        "not_entitled",
        f"{refusal.host} knows {user}, who has no right to {refusal.repository} ({refusal.status}).",
        f"Give {user} the right to pull it, or another login in registries.",
    )


def _terms(refusal: Refusal) -> str:
    return f" Terms to accept, if any, are on {refusal.page}" if refusal.page else ""


def _blocked(refusal: Refusal) -> Judgement:
    return Judgement(
        "blocked",
        f"{refusal.host} may not give {refusal.repository} to this account or region for legal reasons (451).",
        "Other images may still work with the same key. See the terms of this one." + _terms(refusal),
    )
