# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The image can't be pulled: what the registry, or the way to it, has against it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from ..states import PULL_REASONS, Object, main_container, pod_events
from . import quote
from .model import Case, Context, Finding, Rule, container_of, pull_secrets

KEY = (
    "renew it with `ansible-playbook gpuops.nim.rotate_key -e @key.yml`, which writes both secrets and renews the pods "
    "that need it (or with nim_secret, then run this again)"
)
BUSY = "nothing yet, it is tried again; if it lasts look at https://status.ngc.nvidia.com"
BLOCKED = "NVIDIA does not offer this model in the country or under the terms of this key (451)."
BLOCKED_REMEDY = "accept the model's terms on its page in the NGC catalog, or use a mirror in a region that may have it"
ENTITLEMENT = (
    "the key is valid, but its organisation has no right to this model: no NVIDIA AI Enterprise or Developer "
    "Program subscription (402)."
)
ENTITLEMENT_REMEDY = (
    "join the NVIDIA Developer Program or use a key of the organisation that holds the subscription: " + KEY
)
RIGHT_REMEDY = (
    "check the name, accept the model's terms on its page in the NGC catalog, and see that the key's scope includes "
    "the NGC Catalog; a new key: " + KEY
)
_ASKED = (
    "failed to authorize: failed to fetch {} token: unexpected status from GET request to https://nvcr.io/proxy_auth: "
)

# Words of containerd, CRI-O and docker; the numbers only where they are a status.
RULE = Rule(
    "image-pull-refused",
    "The kubelet can't get the image of a container: `ErrImagePull`, `ImagePullBackOff` and their like.",
    (
        Case(
            "node-limit",
            r"pull qps exceeded",
            "the kubelet of the node pulls too many images at once, and puts this one off.",
            "nothing, it is tried again",
            "ErrImagePull: pull QPS exceeded",
            heals=True,
            severity="warning",
        ),
        Case(
            "busy",
            (
                r"\b429\b.{0,3}too many requests|toomanyrequests|rate limit|status[a-z: ]{0,30}\(?\b(429"
                r"|5\d\d)\b|\b50[0-4]\b.{0,3}(internal server error|bad gateway|service unavailable"
                r"|gateway time-?out|not implemented)"
            ),
            "the registry is busy or has trouble of its own.",
            BUSY,
            _ASKED.format("oauth") + "503 Service Unavailable",
            heals=True,
        ),
        Case(
            "proxy",
            r"proxyconnect|\b407\b.{0,3}proxy|proxy authentication required|tunnel error",
            "the node's proxy does not let it reach the registry.",
            (
                "check the proxy of the node's container runtime (HTTPS_PROXY and NO_PROXY of containerd's systemd "
                "unit), its address, user and password"
            ),
            "proxyconnect tcp: dial tcp 10.0.0.9:3128: connect: connection refused",
            heals=True,
        ),
        Case(
            "dns",
            (
                r"dial tcp: lookup |no such host|server misbehaving|temporary failure in name resolution"
                r"|name or service not known"
            ),
            "the node can't find the registry's address: its DNS does not know the name or does not answer.",
            "check the registry's host in `image` ({image}), and on the node: resolvectl query followed by that host",
            "dial tcp: lookup nvcr.io on 10.0.0.2:53: no such host",
            heals=True,
        ),
        Case(
            "network",
            (
                r"i/o timeout|tls handshake timeout|context (deadline exceeded|canceled)|connection (refused"
                r"|reset|timed out)|network is unreachable|no route to host|unexpected eof|: eof\b|client\.timeout"
                r"|timeout awaiting response headers"
            ),
            "the node can't reach the registry.",
            (
                "check the node's way out (proxy of containerd, NAT, firewall for nvcr.io); from "
                "China a mirror of the image is the lasting answer: push it there and set `image`"
            ),
            'Get "https://nvcr.io/v2/": dial tcp 34.1.2.3:443: i/o timeout',
            heals=True,
        ),
        Case(
            "certificate",
            r"x509|certificate (signed by|has expired|is not valid)|tls: failed to verify",
            "the node does not trust the registry's certificate.",
            (
                "put the CA into the node's trust store (or containerd's certs.d) and restart "
                "nothing else; the kubelet tries again by itself"
            ),
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        ),
        Case(
            "plain-http",
            r"server gave http response to https client|first record does not look like a tls handshake",
            "the registry does not speak HTTPS, or another service answers at its address.",
            "give the registry a certificate, or tell the node's containerd to use HTTP for it (certs.d, hosts.toml)",
            'Head "https://mirror:5000/v2/nim/manifests/1": http: server gave HTTP response to HTTPS client',
        ),
        Case(
            "disk",
            r"no space left on device|disk quota exceeded",
            "the node's disk is full.",
            "free or enlarge the disk of containerd's image store; a NIM image needs 20 GB and more unpacked",
            "write /var/lib/containerd/tmpmounts/x: no space left on device",
            lasting=True,
        ),
        Case(
            "blocked",
            r"\b451\b.{0,3}unavailable for legal|unavailable for legal reasons|status[a-z: ]{0,30}\(?\b451\b",
            BLOCKED,
            BLOCKED_REMEDY,
            _ASKED.format("oauth") + "451 Unavailable For Legal Reasons",
        ),
        Case(
            "entitlement",
            r"\b402\b.{0,3}payment required|payment required|status[a-z: ]{0,30}\(?\b402\b",
            ENTITLEMENT,
            ENTITLEMENT_REMEDY,
            "Requesting bearer token: invalid status code from registry 402 (Payment Required)",
        ),
        Case(
            "no-secret",
            r"anonymous token[\s\S]{0,400}\b(401|403)\b|no basic auth credentials",
            "the node asked the registry without any key: no pull secret fits.",
            (
                "check that {secrets} in namespace {namespace} is of type "
                "kubernetes.io/dockerconfigjson and holds the registry's host name; nim_secret "
                "writes it"
            ),
            _ASKED.format("anonymous") + "403 Forbidden",
        ),
        Case(
            "key",
            (
                r"\b401\b.{0,3}unauthorized|status[a-z: ]{0,30}\(?\b401\b|invalid username/password"
                r"|unauthorized: |authentication required"
            ),
            "the registry refuses the key: it is wrong, expired or revoked (401).",
            KEY,
            _ASKED.format("oauth") + "401 Unauthorized",
            confidence="likely",
        ),
        Case(
            "expired",
            None,
            "the registry refuses the key because it has expired.",
            "make a new one at https://org.ngc.nvidia.com/setup/api-keys, and " + KEY,
            "the verdict of the key is expired",
        ),
        Case(
            "right",
            r"\b403\b.{0,3}forbidden|status[a-z: ]{0,30}\(?\b403\b|\bdenied\b|insufficient_scope",
            "the key is known, but has no right to this repository (403).",
            RIGHT_REMEDY,
            'denied: {"errors": [{"code": "DENIED", "message": "Access Denied"}]}',
            confidence="likely",
        ),
        Case(
            "platform",
            r"no match(ing manifest)? for (platform|\w+/)",
            "the image has no build for this node's processor.",
            "use a node of another architecture (most NIM images are amd64 alone) through node_selector",
            "no match for platform in manifest: not found",
        ),
        Case(
            "name",
            (
                r"manifest unknown|name unknown|repository name not known|\b404\b.{0,3}not found"
                r"|status[a-z: ]{0,30}\(?\b404\b|not ?found|does not exist"
            ),
            "the registry has no such image or tag (404).",
            (
                "check `image`: {image} (Llama 3 is written llama3-…, Llama 3.1 llama-3.1-…); the "
                "tags are on the image's page in the NGC catalog"
            ),
            'failed to resolve reference "nvcr.io/nim/meta/llama3-8b-instruct:9.9.9": not found',
        ),
        Case(
            "damaged",
            (
                r"unexpected media type|failed to (extract|register|unpack) |failed size validation|unexpected commit"
                r"|invalid tar header|failed commit on ref"
            ),
            "what came from the registry is not the whole image.",
            (
                "see whether a proxy or mirror between the node and the registry changes or cuts answers; it is "
                "tried again"
            ),
            'failed commit on ref "layer-sha256:0a1b": unexpected commit digest sha256:2c3d, expected sha256:0a1b',
            heals=True,
            confidence="likely",
        ),
        Case(
            "reference",
            None,
            "the image's name is not a valid reference.",
            "check `image`: {image}",
            "InvalidImageName: couldn't parse image name: invalid reference format",
        ),
        Case(
            "never",
            None,
            "the image is not on the node and image_pull_policy is Never.",
            "set image_pull_policy: IfNotPresent",
            "ErrImageNeverPull: Container image is not present with pull policy of Never",
        ),
        Case(
            "signature",
            None,
            "the image's signature does not pass the node's policy.",
            "use a signed image, or change the policy of the node's container runtime (/etc/containers/policy.json)",
            "SignatureValidationFailed: Source image rejected: A signature was required, but no signature exists",
        ),
        Case(
            "stale",
            None,
            "the pod still waits in its back-off, though the secret was repaired after its last try.",
            "a new pod tries at once: kubectl -n {namespace} delete pod {name}; nim_kserve does it by itself",
            "the pull secret was changed after the pod's last event Pulling",
            heals=True,
            severity="warning",
            confidence="likely",
        ),
        Case(
            "unknown",
            None,
            "the image can't be pulled.",
            "look at the message; the kubelet tries again with growing pauses",
            "ErrImagePull: something that nobody has seen yet",
            heals=True,
            confidence="possible",
        ),
    ),
)
_BY_REASON = {
    "InvalidImageName": "reference",
    "ErrImageNeverPull": "never",
    "SignatureValidationFailed": "signature",
}
_OF_A_SECRET = ("key", "right", "entitlement", "expired", "no-secret")  # what a repaired secret may have ended
# What is known of the key tells more than the node's answer, which often is 401 or 403 for all of these.
_BY_VERDICT = {"invalid": "key", "expired": "expired", "not_entitled": "right", "blocked": "blocked"}


def refused(pod: Object, context: Context) -> Iterator[Finding]:
    status = main_container(pod)
    waiting = status.get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    if reason not in PULL_REASONS:
        return
    image = status.get("image") or str(container_of(pod).get("image", ""))
    # While the kubelet backs off, its message no longer says why (before 1.31): the event does.
    failed = pod_events(pod, context.seen.events, "Failed", "InspectFailed")
    told = [(str(waiting.get("message") or ""), quote.container(pod, status))]
    told += [(str(event.get("message") or ""), quote.event(event)) for event in reversed(failed)]
    told = [
        (text, q) for text, q in told if text and not re.fullmatch(r'(Back-off pulling image ".*"|Error: \w+)', text)
    ]
    evidence = [quotation for _text, quotation in told] or [quote.container(pod, status)]
    if reason in _BY_REASON:
        yield RULE.finding(_BY_REASON[reason], evidence, pod, image=image)
        return
    for text, quotation in told:
        known = RULE.first(text)
        if known:
            case, more = _with_secrets(known[0], pod, context)
            yield RULE.finding(case, [quotation, *more], pod, image=image)
            return
    yield RULE.finding("unknown", evidence, pod, image=image)


def _with_secrets(case: Case, pod: Object, context: Context) -> tuple[Case, list[str]]:
    """Judge again by what is known of the pull secrets and of the key."""
    if case.variant not in (*_OF_A_SECRET, "name", "blocked"):
        return case, []
    around, names = context.around, pull_secrets(pod.get("spec", {}))
    evidence: list[str] = []
    if case.variant in ("key", "right", "no-secret"):
        missing = pod_events(pod, context.seen.events, "FailedToRetrieveImagePullSecret")
        evidence += [quote.event(event) for event in missing[-1:]]
        evidence += [f"there is no secret {name}" for name in names if around.secrets.get(name) == ""]
        if evidence:
            return RULE.case("no-secret"), evidence
    changed = context.changed_since(names, _last_try(pod, context))
    verdict = str((around.verdict or {}).get("verdict", ""))
    said = [f"verdict of the key: {verdict}: {(around.verdict or {}).get('cause', '')}"] if verdict else []
    if case.variant in _OF_A_SECRET and case.variant != "no-secret" and verdict in ("valid", "not_needed"):
        return replace(RULE.case("stale"), confidence="certain"), [*said, *changed]
    if case.variant in _OF_A_SECRET and changed and verdict not in _BY_VERDICT:
        return RULE.case("stale"), changed
    if case.variant in _OF_A_SECRET and case.variant != "no-secret" and verdict in _BY_VERDICT:
        better = _BY_VERDICT[verdict]
        kept = case.variant == "entitlement" and better == "right"
        return replace(case if kept else RULE.case(better), confidence="certain"), said
    if verdict == "no_such_image" and case.variant != "no-secret":
        return RULE.case("name"), said
    return case, []


def _last_try(pod: Object, context: Context) -> datetime | None:
    """When the kubelet last asked the registry; its back-off has events of its own."""
    tries = [
        event
        for event in pod_events(pod, context.seen.events, "Pulling", "Failed")
        if event.get("reason") == "Pulling" or str(event.get("message")).startswith("Failed to pull image")
    ]
    return quote.time(tries[-1]) if tries else None
