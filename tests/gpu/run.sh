#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The GPU path on a machine that has a card and its driver and reaches nothing. What it needs lies in the folder that is
# named, made by tests/gpu/pack.sh elsewhere. docs/gpu-path.md tells what this shows, and what it does not.
set -euo pipefail
packed=$(realpath "$1")
cd "$(dirname "$0")/../.."
base=/var/tmp/gpu-path
export GPUOPS_NIM_CACHE=$base/cache GPUOPS_NIM_STATE=$base/state
export NGC_API_KEY=nvapi-rehearsal-valid-0123456789abcdefghijklmnopqrstuvwxyz ANSIBLE_NOCOLOR=1

mkdir -p $GPUOPS_NIM_CACHE
[ -d $GPUOPS_NIM_CACHE/bin ] || cat "$packed"/part.* | tar -C $GPUOPS_NIM_CACHE -xJf -
for deb in "$packed"/*.deb; do dpkg -x "$deb" $base/debian; done # not over the system: it would lose its /bin
ln -sf busybox $base/debian/bin/ip
[ -e /usr/lib/cni ] || cp -r $base/debian/usr/lib/cni /usr/lib/cni
if [ ! -d $base/venv ]; then
  /usr/bin/python3 -m venv $base/venv
  $base/venv/bin/pip install -q --no-index --find-links "$packed/wheels" "$packed"/wheels/*.whl
fi
toolkit=$(echo $GPUOPS_NIM_CACHE/bin/nvidia-container-toolkit-*)
export PATH=$base/venv/bin:$toolkit:$base/debian/usr/sbin:$base/debian/usr/bin:$PATH:$base/debian/bin
mkdir -p collections/ansible_collections/gpuops
ln -sfn ../../.. collections/ansible_collections/gpuops/nim

# the stand-in's root file system is one of Debian; here it would be made of Ubuntu's packages, which can't be had
images=$GPUOPS_NIM_CACHE/images
own=$images/root-"$(python -c 'from rehearsal import images; print(images._root_key())')".tar.gz
[ -e "$own" ] || cp $images/root-*.tar.gz "$own"

echo "== the host"
ansible localhost -m gpuops.nim.gpu_host_info
echo "== the cluster"
python -m rehearsal up
echo "== the container toolkit"
mkdir -p /etc/cdi
nvidia-ctk --version
nvidia-ctk --quiet cdi generate --nvidia-cdi-hook-path "$toolkit/nvidia-cdi-hook" --output=/etc/cdi/nvidia.yaml
nvidia-ctk cdi list
echo "== the device plugin"
# the kubelet's sockets are in the rehearsal's own mount namespace
nsenter --target "$(cat $GPUOPS_NIM_STATE/pid)" --mount --wd="$PWD" python -m tests.gpu.plugin /etc/cdi/nvidia.yaml &
plugin=$!
trap 'kill $plugin; python -m rehearsal down' EXIT
kubectl() { "$GPUOPS_NIM_CACHE"/bin/kubernetes-*/kubectl --kubeconfig $GPUOPS_NIM_STATE/kubeconfig "$@"; }
for _ in $(seq 60); do
  [ "$(kubectl get node rehearsal -o 'jsonpath={.status.allocatable.nvidia\.com/gpu}')" = "$(nvidia-smi -L | wc -l)" ] && break
  sleep 1
done
kubectl get node rehearsal -o 'jsonpath={.status.allocatable}{"\n"}'
echo "== the service"
ansible-playbook tests/gpu/path.yml -e nim_kubeconfig=$GPUOPS_NIM_STATE/kubeconfig ||
  { kubectl get pods,events -A; kubectl logs -l serving.kserve.io/inferenceservice=matrix-product --tail=40; exit 1; }
kubectl get inferenceservice,pod -o wide
