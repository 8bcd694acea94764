# SPDX-License-Identifier: GPL-3.0-or-later
"""What the distributions have of the driver themselves, as stand-ins: `distribution.py FOLDER`.

FOLDER/debian is as Debian's archive; FOLDER/ubuntu, and FOLDER/ubuntu-updates, which comes to it later, are flat; the
key is in FOLDER. Real: names, and the dependencies that decide what comes, and stays, with what. For the rest see
repository.py.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from repository import NVIDIA_SMI, PERSISTENCED, SLEEP, UNIT, UNITS, dkms, flat, headers, listed, pack, sign

DEBIAN = "550.163.01-2"
UBUNTU = "580.95.05-0ubuntu0.24.04.1"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so."
DAEMON = {
    f"{UNITS}/nvidia-persistenced.service": UNIT.format(start=PERSISTENCED),
    "/usr/bin/nvidia-persistenced": SLEEP,
}


def debian(folder: Path) -> None:
    """Modules of both flavours, which don't exclude each other."""
    ours = f"(= {DEBIAN})"
    pool = folder / "pool"
    pool.mkdir(parents=True)
    headers(pool)
    library = {LIBRARY + DEBIAN.partition("-")[0]: ""}
    pack(pool, "libnvidia-ml1", DEBIAN, library, {})
    pack(pool, "nvidia-smi", DEBIAN, {"/usr/bin/nvidia-smi": NVIDIA_SMI}, {}, Depends=f"libnvidia-ml1 {ours}")
    pack(pool, "nvidia-persistenced", "550.163.01-1", DAEMON, {}, Depends="libnvidia-cfg1")
    for name in ("libcuda1", "libnvidia-cfg1", "firmware-nvidia-gsp"):
        pack(pool, name, DEBIAN, {}, {})
    for name, module in (("nvidia-kernel-dkms", "nvidia-current"), ("nvidia-open-kernel-dkms", "nvidia-current-open")):
        pack(pool, name, DEBIAN, {}, dkms(module), Depends=f"firmware-nvidia-gsp {ours}")
    for suite in ("trixie", "trixie-updates"):
        for component in ("main", "contrib", "non-free", "non-free-firmware"):
            target = folder / "dists" / suite / component / "binary-amd64"
            target.mkdir(parents=True)
            every = suite == "trixie" and component == "non-free"  # apt asks only one of them
            (target / "Packages").write_text(listed(folder, "packages", "pool") if every else "")
        options = ("Suite=stable", f"Codename={suite}", "Components=main contrib non-free non-free-firmware")
        options = tuple(f"-oAPT::FTPArchive::Release::{option}" for option in (*options, "Architectures=amd64"))
        (folder / "dists" / suite / "Release").write_text(listed(folder, "release", f"dists/{suite}", *options))


def ubuntu(folder: Path) -> None:
    """The open flavour alone."""
    headers(folder)
    version, exact = UBUNTU, f"(= {UBUNTU})"
    pack(folder, "libnvidia-compute-580-server", version, {LIBRARY + version.partition("-")[0]: ""}, {})
    needs = {"Depends": f"libnvidia-compute-580-server {exact}"}
    pack(folder, "nvidia-utils-580-server", version, {"/usr/bin/nvidia-smi": NVIDIA_SMI}, {}, **needs)
    pack(folder, "nvidia-compute-utils-580-server", version, DAEMON, {}, **needs)
    pack(folder, "nvidia-kernel-common-580-server", version, {}, {})
    needs = {"Depends": f"libnvidia-compute-580-server {exact}, nvidia-kernel-common-580-server {exact}"}
    pack(folder, "nvidia-headless-no-dkms-580-server-open", version, {}, {}, **needs)
    pack(folder, "nvidia-dkms-580-server-open", version, {}, dkms(), Depends=f"nvidia-kernel-common-580-server {exact}")
    parts = f"nvidia-headless-no-dkms-580-server-open {exact}, nvidia-dkms-580-server-open {exact}"
    pack(folder, "nvidia-headless-580-server-open", version, {}, {}, Depends=parts)


def modules(folder: Path, abi: int) -> None:
    """For the kernel that runs here, as if it were Ubuntu's of this ABI; under all names that its flavour may have."""
    kernel = platform.release()
    words = kernel.split("-")
    flavours = {"-".join(words[start:]) for start in range(len(words))} | {"generic-hwe-24.04"}
    version, prefix = f"6.8.0-{abi}.{abi}", "linux-modules-nvidia-580-server-open"
    driver, common = UBUNTU.partition("-")[0], "nvidia-kernel-common-580-server"
    file = {f"/usr/lib/modules/{kernel}/kernel/nvidia-580srv-open-{abi}/nvidia.ko": f"{driver}\n"}
    pack(folder, f"{prefix}-{abi}", version, file, {}, Depends=f"{common} (>= {driver}), {common} (<= {UBUNTU})")
    for flavour in flavours:
        pack(folder, f"{prefix}-{flavour}".lower(), version, {}, {}, Depends=f"{prefix}-{abi}")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    debian(target / "debian")
    for name, abi in (("ubuntu", 88), ("ubuntu-updates", 89)):
        (target / name).mkdir()
        modules(target / name, abi)
    ubuntu(target / "ubuntu")
    flat(target / "ubuntu")
    flat(target / "ubuntu-updates")
    sign(target, target / "ubuntu", target / "ubuntu-updates", *target.glob("debian/dists/*"))
