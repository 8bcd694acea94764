# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine's apt is set to, for mmdebstrap, which doesn't read it by itself."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from rehearsal.command import run
from rehearsal.errors import RehearsalError

# a setup hook: packages of all releases since Debian 11 and Ubuntu 24.04 fit into a merged /usr; some need it
MERGED_USR = 'for name in bin sbin lib lib64; do mkdir -p "$1/usr/$name"; ln -s "usr/$name" "$1/$name"; done'
_NAMES = {"debian": "Debian", "ubuntu": "Ubuntu"}


def sources(codename: str = "") -> str:
    """The distribution's own sources as this machine has them, mirrors and all; nobody else's.

    ``codename``: for another release of the distribution. Raises RehearsalError.
    """
    system = platform.freedesktop_os_release()
    name = _NAMES.get(system["ID"])
    if not name:
        raise RehearsalError("This is made of Debian's or Ubuntu's packages; here is another system.")
    keyring = Path(f"/usr/share/keyrings/{name.lower()}-archive-keyring.gpg")
    option = f"[signed-by={keyring}] " if keyring.is_file() else ""
    ask = [
        "apt-get",
        "indextargets",
        "--format",
        "$(ORIGIN)|$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]
    lines = sorted(set(re.findall(rf"^{name}\|(.+)$", run(ask), re.M)))
    if not lines:
        run(["apt-get", "update"])
        lines = sorted(set(re.findall(rf"^{name}\|(.+)$", run(ask), re.M)))
    if not lines:
        raise RehearsalError(f"apt knows no source of {name}: add the usual ones to /etc/apt/sources.list.d.")
    own = system["VERSION_CODENAME"]
    return "".join(f"deb {option}{line}\n".replace(f" {own}", f" {codename or own}") for line in lines)


def options() -> str:
    """Proxies and the like, as an apt.conf."""
    return "".join(re.findall(r"^Acquire::(?:https?::|Check-|Retries|Force).*\n", run(["apt-config", "dump"]), re.M))
