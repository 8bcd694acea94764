#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Packs what run.sh needs on a machine that reaches nothing, from a Debian machine where the rehearsal has run: a system with
# all that the rehearsal installs, gets and builds, into build/gpu, in pieces of 56 MiB. NVIDIA's programs are built of
# their source, from Go's module proxy.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${GPUOPS_NIM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpuops-nim}
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.conf"' EXIT
rm -rf build/gpu
mkdir -p build/gpu

.venv/bin/python -m rehearsal packages up
.venv/bin/python -m rehearsal packages down
kept=$(.venv/bin/python - <<'END'
from rehearsal import hosts, images, toolchain
from rehearsal.layout import Layout
from rehearsal.progress import Progress

layout, progress = Layout.from_environment(), Progress()
also = ("k8s-device-plugin", "node-feature-discovery", "nvidia-container-toolkit-1.20.1", *images.PARTS)
folders = toolchain.build(layout, progress, *also).folders.values()
images.fetch(layout, progress)
for path in (layout.cache / "images", hosts.base(layout, progress, "trixie"), layout.packages, *folders):
    print(path.relative_to(layout.cache))
END
)

.venv/bin/python -c 'from rehearsal import apt; print(apt.options())' > "$root.conf"
.venv/bin/python -c 'from rehearsal import apt; print(apt.sources())' |
  mmdebstrap --quiet --variant=minbase --aptopt="$root.conf" \
    --include=ca-certificates,containernetworking-plugins,iproute2,kmod,mmdebstrap,openssh-client,procps,python3,runc,systemd-container \
    "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root" -
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{doc,man,locale}
platforms=(--platform any --platform manylinux2014_x86_64)
for glibc in 17 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
python=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
.venv/bin/pip install -q --no-compile --target "$root/usr/local/lib/python$python/dist-packages" \
  --only-binary=:all: "${platforms[@]}" --python-version "$python" \
  -r requirements.txt -r requirements-rehearsal.txt

mkdir -p "$root/root/.cache/gpuops-nim" "$root/machine"
# of the packages the newest release alone
tar -C "$cache" --exclude='*_1.1*.deb' -cf - $kept | tar -C "$root/root/.cache/gpuops-nim" -xf -
tar -C "$root" -cf - . | xz -T0 -5 | split -b 56M - build/gpu/machine.
ls -sh build/gpu
