#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Packs what run.sh (`pack.sh`) or host.sh (`pack.sh host`) needs on a machine that reaches nothing, from a Debian machine
# where the rehearsal has run, and for `pack.sh host` `python -m rehearsal packages up`, too: into build/gpu, in pieces of
# 56 MiB. NVIDIA's programs are built of their source, from Go's module proxy.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${GPUOPS_NIM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpuops-nim}
rm -rf build/gpu
mkdir -p build/gpu
platforms=(--platform any)
for glibc in 17 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done

if [ "${1:-}" = host ]; then
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  .venv/bin/python -c 'from rehearsal import apt; print(apt.options())' > "$root.conf"
  .venv/bin/python -c 'from rehearsal import apt; print(apt.sources("trixie"))' |
    mmdebstrap --quiet --variant=minbase --aptopt="$root.conf" --dpkgopt='path-exclude=/usr/share/*/*/*/LC_MESSAGES/*' \
      --include=systemd,systemd-sysv,systemd-container,dbus,udev,kmod,procps,ca-certificates,python3,python3-apt,runc \
      trixie "$root" -
  rm -rf "$root.conf" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{doc,man,locale}
  .venv/bin/pip install -q --no-compile --target "$root/opt/ansible" --only-binary=:all: --python-version 3.13 \
    "${platforms[@]}" --platform manylinux2014_x86_64 ansible-core
  cp "$(ls -td "$cache"/bin/containerd-* | head -1)"/* "$root/usr/local/bin/"
  mkdir "$root/opt/packages"
  tar -C "$cache/packages" --exclude='*_1.1*.deb' -cf - . | tar -C "$root/opt/packages" -xf - # the newest release alone
  tar -C "$root" -cf - . | xz -T0 | split -b 56M - build/gpu/host.
  ls -sh build/gpu
  exit
fi

python=3.12 # of the machine with the card
mkdir -p build/gpu/wheels
.venv/bin/pip download -q --dest build/gpu/wheels --only-binary=:all: --python-version $python "${platforms[@]}" \
  --platform manylinux2014_x86_64 -r requirements.txt -r requirements-rehearsal.txt
(cd build/gpu && apt-get -qq download busybox-static containernetworking-plugins mmdebstrap runc)
also=(k8s-device-plugin node-feature-discovery nvidia-container-toolkit-1.20.1 kube-rbac-proxy kserve-manifests)
.venv/bin/python -m rehearsal build "${also[@]}"
.venv/bin/python - <<'END'
from rehearsal import images
from rehearsal.layout import Layout
from rehearsal.progress import Progress

images.fetch(Layout.from_environment(), Progress())
END
parts=()
for part in containerd contour crane etcd kserve kubernetes pause registry "${also[@]}"; do
  newest=$(cd "$cache" && ls -td bin/$part-???????????????? | head -1)
  parts+=("$newest")
done
tar -C "$cache" -cf - "${parts[@]}" images | xz -T0 -5 | split -b 56M - build/gpu/part.
ls -sh build/gpu
