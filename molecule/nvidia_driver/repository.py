# SPDX-License-Identifier: GPL-3.0-or-later
"""A signed apt repository, flat as NVIDIA's, of stand-ins for the driver: `repository.py FOLDER`.

Real: names, versions, dependencies, conflicts, pinning packages, maintainer scripts that fail as DKMS does. Not real:
no module is built and no GPU is driven. `nvidia-smi` answers if the version that is "loaded" is its own.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ("580.95.05-1", "580.178.04-1", "595.91.07-1")
NVIDIA_SMI = """\
#!/bin/sh
loaded=$(cat /sys/module/nvidia/version 2>/dev/null)
[ -n "$loaded" ] || { echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9; }
[ "$loaded" = "VERSION" ] || { echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18; }
for device in /sys/bus/pci/devices/*; do
    case $(cat $device/class) in 0x0302*) echo "GPU-$(basename $device)" ;; esac
done
"""
# what DKMS leaves behind when it has built, when there are no headers, and when the build fails or takes long
BUILD = """\
#!/bin/sh
[ "$1" = configure ] || exit 0
kernel=$(uname -r) tree=/var/lib/dkms/MODULE
mkdir -p $tree/VERSION/build $tree/VERSION/source
while [ -e /root/dkms-hangs ]; do sleep 1; done
if [ -e /root/dkms-fails ]; then
    echo "error: implicit declaration of function 'pte_offset_map'" > $tree/VERSION/build/make.log
    echo "Error! Bad return status for module build on kernel: $kernel" >&2
    exit 10
fi
[ -e /lib/modules/$kernel/build/Makefile ] || { echo "Module build for kernel $kernel was skipped" >&2; exit 0; }
mkdir -p $tree/VERSION/$kernel/x86_64/module
ln -sfn VERSION/$kernel/x86_64 $tree/kernel-$kernel-x86_64
"""
UNBUILD = "#!/bin/sh\nrm -rf /var/lib/dkms/MODULE/VERSION /var/lib/dkms/MODULE/kernel-*\n"
UNIT = "[Service]\nExecStart={start}\n[Install]\nWantedBy=multi-user.target\n"
PERSISTENCED = "/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose"
SLEEP = "#!/bin/sh\nexec sleep infinity\n"
UNITS = "/usr/lib/systemd/system"


def dkms(module: str = "nvidia") -> dict[str, str]:
    """Maintainer scripts that do as DKMS does."""
    return {"postinst": BUILD.replace("MODULE", module), "prerm": UNBUILD.replace("MODULE", module)}


def pack(folder: Path, name: str, version: str, files: dict[str, str], scripts: dict[str, str], **fields: str) -> None:
    own = version.partition("-")[0]
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        control = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "tests <t@example.com>"}
        control |= {**fields, "Description": "stand-in"}
        files = {**files, "/DEBIAN/control": "".join(f"{key}: {value}\n" for key, value in control.items())}
        files |= {f"/DEBIAN/{script}": text for script, text in scripts.items()}
        for path, text in files.items():
            file = Path(scratch + path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("VERSION", own))
            file.chmod(0o755 if text.startswith("#!") else 0o644)
        command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", scratch, str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def driver(folder: Path, version: str) -> None:
    modules = f"nvidia-kernel-open-dkms (= {version}) | nvidia-kernel-dkms (= {version})"
    library = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.VERSION"
    files = {"/usr/bin/nvidia-smi": NVIDIA_SMI, library.replace("VERSION", version.partition("-")[0]): ""}
    # a library that nobody names: only the pin keeps it to the branch
    source = {"Source": "nvidia-graphics-drivers"}
    pack(folder, "libcuda1", version, {}, {}, **source)
    pack(folder, "nvidia-driver-cuda", version, files, {}, Depends=f"libcuda1 (= {version}), {modules}", **source)
    for name, other in (
        ("nvidia-kernel-open-dkms", "nvidia-kernel-dkms"),
        ("nvidia-kernel-dkms", "nvidia-kernel-open-dkms"),
    ):
        pack(folder, name, version, {}, dkms(), Conflicts=other, Replaces=other)
    unit = UNIT.format(start=PERSISTENCED)
    files = {f"{UNITS}/nvidia-persistenced.service": unit, "/usr/bin/nvidia-persistenced": SLEEP}
    pack(folder, "nvidia-persistenced", version, files, {})
    unit = UNIT.format(start="/usr/bin/nv-fabricmanager")
    files = {f"{UNITS}/nvidia-fabricmanager.service": unit, "/usr/bin/nv-fabricmanager": SLEEP}
    pack(folder, "nvidia-fabricmanager", version, files, {})
    pack(folder, "libnvidia-nscq", version, {}, {})


def pinning(folder: Path, wanted: str, version: str) -> None:
    versions = f"{wanted}-*" if "." in wanted else f"{wanted}.*"
    pin = f"Package: src:*nvidia*:any\nPin: version {versions}\nPin-Priority: 1000\n"
    both = "nvidia-driver-pinning"
    fields = {"Provides": both, "Conflicts": both, "Replaces": both}
    pack(folder, f"{both}-{wanted}", version, {"/etc/apt/preferences.d/nvidia-driver-pinning": pin}, {}, **fields)


def headers(folder: Path) -> None:
    """Of the kernel that runs here, under all names that its flavour could have."""
    kernel = platform.release()
    words = kernel.split("-")
    flavours = ", ".join(f"linux-headers-{'-'.join(words[start:])}" for start in range(1, len(words)))
    file = {f"/usr/lib/modules/{kernel}/build/Makefile": "all:\n"}
    pack(folder, f"linux-headers-{kernel}".lower(), "1", file, {}, **({"Provides": flavours} if flavours else {}))


def listed(folder: Path, *command: str) -> str:
    return subprocess.run(["apt-ftparchive", *command], cwd=folder, check=True, capture_output=True, text=True).stdout


def flat(folder: Path) -> None:
    (folder / "Packages").write_text(listed(folder, "packages", "."))
    (folder / "Release").write_text(listed(folder, "release", "."))


def sign(folder: Path, *releases: Path) -> None:
    """What is listed in other folders, with a key whose public part is put into this one."""
    with tempfile.TemporaryDirectory() as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", ""]

        def run(*command: str | Path) -> str:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        for name in ("tests", "others"):
            run(*gpg, "--quick-generate-key", f"{name} <{name}@example.com>", "rsa3072", "sign", "never")
        described = run(*gpg, "--list-keys", "--with-colons", "tests@example.com").splitlines()
        (folder / "fingerprint").write_text(next(line.split(":")[9] for line in described if line.startswith("fpr:")))
        (folder / "key.asc").write_text(run(*gpg, "--armor", "--export", "tests@example.com"))
        (folder / "two-keys.asc").write_text(run(*gpg, "--armor", "--export"))
        signer = ("--local-user", "tests@example.com", "--digest-algo", "SHA512")
        for release in releases:
            run(*gpg, *signer, "--clearsign", "--output", release / "InRelease", release / "Release")
        run("gpgconf", "--homedir", home, "--kill", "all")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    for each in VERSIONS:
        driver(target, each)
        pinning(target, each.partition("-")[0], each)
    pinning(target, "580", "580.178.04-1")
    pinning(target, "595", "595.91.07-1")
    headers(target)
    flat(target)
    sign(target, target)
