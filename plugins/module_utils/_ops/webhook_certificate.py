# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""A certificate for a webhook, made here, kept in a Secret, renewed in time: for clusters without cert-manager."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]

VALID = datetime.timedelta(days=3650)  # nobody else trusts it, and a webhook whose certificate is over stops the API
RENEW = datetime.timedelta(days=180)


def secret(name: str, namespace: str, host: str, live: Mapping[str, Any] | None) -> Object:
    """The Secret as it is to be: as it is if its certificate still does, else with a new one.

    ``ca.crt`` is what to trust. After a renewal it holds the old certificate, too, for as long as pods have that.
    """
    data = {key: base64.b64decode(text) for key, text in ((live or {}).get("data") or {}).items()}
    if not good(data, host):
        data = _new(host, data.get("tls.crt", b""))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in sorted(data.items())},
    }


def good(data: Mapping[str, bytes], host: str) -> bool:
    """Whether key and certificate belong together, are for that host, and for long enough."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        certificate = x509.load_pem_x509_certificate(data["tls.crt"])
        key = load_pem_private_key(data["tls.key"], None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (KeyError, ValueError, x509.ExtensionNotFound):
        return False
    return (
        host in names.get_values_for_type(x509.DNSName)
        and key.public_key() == certificate.public_key()
        and data["tls.crt"].strip() in data.get("ca.crt", b"")
        and _end(certificate) - _now() > RENEW
    )


def _new(host: str, old: bytes) -> dict[str, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    use = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(_now() + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, encipher_only=False, decipher_only=False, **use),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {"tls.crt": certificate, "tls.key": private, "ca.crt": certificate + (old if _usable(old) else b"")}


def _usable(pem: bytes) -> bool:
    from cryptography import x509

    try:
        return _end(x509.load_pem_x509_certificate(pem)) > _now()
    except ValueError:
        return False


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _end(certificate: Any) -> datetime.datetime:
    # cryptography before 42 has only the time without its zone
    found = getattr(certificate, "not_valid_after_utc", None)
    return found or certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)  # type: ignore[no-any-return]
