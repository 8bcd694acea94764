# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/driver.md, written from the resolver's own tables: PYTHONPATH=collections python tests/sanity/driver_page.py"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.gpuops.nim.plugins.module_utils._host import branches, drivers
from ansible_collections.gpuops.nim.plugins.module_utils._host.drivers import CUDA_REPO, SYSTEMS, System

PAGE = Path(__file__).parents[2] / "docs" / "driver.md"
COMMAND = "PYTHONPATH=collections python tests/sanity/driver_page.py"
_HEAD = f"""\
<!-- Written by `{COMMAND}`; change plugins/module_utils/_host/drivers.py or branches.py, or that file, instead. -->
# The driver: what is installed where

The role [nvidia_driver](../roles/nvidia_driver/README.md) installs NVIDIA's driver from this table, and refuses before
any change what is not in it. The filter `gpuops.nim.nvidia_driver_plan` shows what a host would get.

"""
_TESTED = f"""
*{drivers.INSTALLED.capitalize()}*: molecule installs, upgrades, holds, reboots into and removes it on such a system,
booted with systemd, with real apt and real units, from `cuda_repo`. The packages there are stand-ins with the real
names and dependencies, which build no module and drive no GPU. *{drivers.RESOLVED.capitalize()}*: names, repositories
and keys come from NVIDIA's and the distributions' documentation and from public repositories, and are tested as data;
nothing was installed on such a system. The role says which when it runs. On a GPU none of it has been tried yet.

The tasks for dnf run in molecule, too: with real dnf and rpm, a signed repository with module streams, version locks
and a reboot, on a host that says it is Rocky Linux 9. It is a Debian beneath, so EL 9 stays *{drivers.RESOLVED}*.
Those for the distributions' own packages run with stand-ins: Ubuntu's of both kinds, on a host that says it is Ubuntu
24.04 and is a Debian as well, and both flavours of Debian 13's, which can be installed beside each other: the role
leaves one.

`make slow`, which is no part of the tests, has DKMS compile NVIDIA's modules: on Debian 13, the proprietary ones of
Debian's own packages (`distribution`), for two kernels of Debian's. Also a kernel without headers, a build that fails
and is repaired, and the removal. The modules are not loaded: the kernel that runs there is the machine's own.

"""
_FLAVOURS = f"""
## Open or proprietary modules

| GPU | modules | branch |
|---|---|---|
| Maxwell, Pascal, Volta | proprietary only | up to {branches.LAST_FOR_PRE_TURING} |
| Turing, Ampere, Ada, Hopper | both, `auto` takes open from {branches.OPEN_BY_DEFAULT} on | \
proprietary up to {branches.LAST_PROPRIETARY} |
| Blackwell and newer | open only | from {branches.FIRST_FOR_BLACKWELL} |

Other combinations are refused, and so is a host with a GPU of the first row beside one of the last.

## Secure Boot

A kernel under Secure Boot takes only modules with a key that it knows. `nvidia_driver_source: auto` then takes the
modules that Ubuntu has signed. Elsewhere the role stops with the steps to enrol the key of the host, which need a
console at the next boot; `nvidia_driver_mok_enrolled: true` says that it is done.

Those modules come with each kernel of Ubuntu's and are not held; the libraries are. Where the next kernel's modules are
of a newer driver, apt keeps them back, and that kernel would start without any: the table of `gpu_hosts.yml` names such
a host, and `nvidia_driver_upgrade: true` brings both up.
"""
_NOT = "\n## Not supported\n\n| | why |\n|---|---|\n"
_LIVES = "\n## Branches\n\n| branch | kind | support |\n|---|---|---|\n"


def page() -> str:
    systems = "| system | tested | sources and branches | architectures | repository |\n|---|---|---|---|---|\n"
    systems += "".join(map(_row, SYSTEMS))
    notes = "".join(f"- {system.title}: {system.notes}\n" for system in SYSTEMS if system.notes)
    keys = "\n## Keys of NVIDIA's repositories\n\n| repository | file | fingerprint |\n|---|---|---|\n"
    keys += "".join(sorted({_key(system) for system in SYSTEMS}))
    lives = "".join(f"| {each.number} | {each.kind} | {each.lifetime} |\n" for each in branches.BRANCHES.values())
    missing = "".join(f"| {what} | {why} |\n" for what, why in drivers.NOT_SUPPORTED.items())
    return _HEAD + systems + _TESTED + notes + _LIVES + lives + _FLAVOURS + keys + _NOT + missing


def _row(system: System) -> str:
    sources = "<br>".join(
        f"`{source}`: {', '.join(map(str, numbers))}" for source, numbers in sorted(system.branches.items())
    )
    return (
        f"| {system.title} | {system.tested} | {sources} | {', '.join(system.architectures)} | `{system.directory}` |\n"
    )


def _key(system: System) -> str:
    assert CUDA_REPO in system.branches
    return f"| `{system.directory}` | `{system.key.file}` | {system.key.fingerprint or 'to be given'} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
