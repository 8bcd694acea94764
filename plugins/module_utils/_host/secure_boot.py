# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Secure Boot, and the certificates that modules built here are signed for."""

from __future__ import annotations

import re
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

VARIABLES = "/sys/firmware/efi/efivars"
SECURE_BOOT = f"{VARIABLES}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# shim's own switch; the kernel heeds it, unless somebody wrote it from the running system (non-volatile)
SHIM_VALIDATION_OFF = f"{VARIABLES}/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"
NON_VOLATILE = 1
# shim's copies of the list of enrolled keys: as plain data (since Linux 5.10), and as a variable
ENROLLED = (
    "/sys/firmware/efi/mok-variables/MokListRT",
    f"{VARIABLES}/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23",
)
# of Ubuntu's shim, DKMS, akmods
CERTIFICATES = (
    "/var/lib/shim-signed/mok/MOK.der",
    "/var/lib/dkms/mok.pub",
    "/etc/pki/akmods/certs/public_key.der",
)
DKMS_OPTIONS = "/etc/dkms/framework.conf"
OWN_CERTIFICATE = re.compile(r"\s*mok_certificate=[\"']?([^\"'\s]+)[\"']?\s*")


def find(host: Host) -> dict[str, Any]:
    keys = [path for path in _certificates(host) if host.exists(path)]
    return {
        "enabled": _enabled(host),
        "signing_keys": keys,
        "enrolled": [path for path in keys if _is_enrolled(host, path)],
    }


def _enabled(host: Host) -> Optional[bool]:
    if not host.exists("/sys/firmware"):
        return None  # no /sys: a mounted image
    if not host.exists("/sys/firmware/efi"):
        return False
    if not host.exists(SECURE_BOOT):
        return _ask(host)
    # four bytes of attributes, then the value
    value, switch = host.read_bytes(SECURE_BOOT), None
    if host.exists(SHIM_VALIDATION_OFF):
        switch = host.read_bytes(SHIM_VALIDATION_OFF)
    if value is None or len(value) != 5:
        if value is not None:
            host.problem(SECURE_BOOT, f"{len(value)} bytes, not 5.")
        return None
    switched_off = bool(switch and len(switch) == 5 and not switch[0] & NON_VOLATILE and switch[4] == 1)
    return value[4] == 1 and not switched_off


def _ask(host: Host) -> Optional[bool]:
    """Without the file system of EFI variables, or a firmware that knows no Secure Boot."""
    if host.names(VARIABLES):
        return False
    said = (host.output("mokutil", "--sb-state") or "").lower()
    if "secureboot" not in said:
        return None
    return "secureboot enabled" in said and "validation is disabled" not in said


def _is_enrolled(host: Host, path: str) -> bool:
    certificate = host.read_bytes(path)
    lists = (host.read_bytes(enrolled) or b"" for enrolled in ENROLLED)
    return any(certificate in known for known in lists) if certificate else False


def _certificates(host: Host) -> list[str]:
    own = (OWN_CERTIFICATE.fullmatch(line) for line in host.lines(DKMS_OPTIONS))
    return list(dict.fromkeys([*(match[1] for match in own if match), *CERTIFICATES]))
