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
bin=$GPUOPS_NIM_CACHE/bin
export PATH=$base/venv/bin:$base/debian/usr/sbin:$base/debian/usr/bin:$PATH:$base/debian/bin
mkdir -p collections/ansible_collections/gpuops
ln -sfn ../../.. collections/ansible_collections/gpuops/nim

# the images' root file system is one of Debian; here it would be made of Ubuntu's packages, which can't be had
images=$GPUOPS_NIM_CACHE/images
own=$images/root-"$(python -c 'from rehearsal import images; print(images._root_key())')".tar.gz
[ -e "$own" ] || cp $images/root-*.tar.gz "$own"

kubectl() { "$bin"/kubernetes-*/kubectl --kubeconfig $GPUOPS_NIM_STATE/kubeconfig "$@"; }
fails() { ! "$@"; }
play() { ansible-playbook -i tests/gpu/hosts.yml -e nim_kubeconfig=$GPUOPS_NIM_STATE/kubeconfig "$@"; }
nodes_and_plugin() {
  play playbooks/gpu_hosts.yml --tags kserve,plugin,verify -e kserve_manifests="$(echo "$bin"/kserve-manifests-*/v0.20.0/kserve.yaml)"
}

echo "== the host"
ansible localhost -m gpuops.nim.gpu_host_info
echo "== the cluster"
trap 'python -m rehearsal down --purge' EXIT
python -m rehearsal down --purge
python -m rehearsal up --bare

echo "== the container toolkit, as its packages and the role container_toolkit put it there"
ln -sf "$bin"/nvidia-container-toolkit-*/nvidia-* /usr/bin/
mkdir -p /etc/nvidia-container-runtime /etc/cdi $GPUOPS_NIM_STATE/config/containerd.d
nvidia-ctk --version
nvidia-ctk --quiet config --config-file=/etc/nvidia-container-runtime/config.toml --in-place
nvidia-ctk --quiet cdi generate --output=/etc/cdi/nvidia.yaml
nvidia-ctk cdi list
nvidia-ctk --quiet runtime configure --runtime=containerd --config=$GPUOPS_NIM_STATE/config/containerd.toml \
  --drop-in-config=$GPUOPS_NIM_STATE/config/containerd.d/nvidia.toml
python -m rehearsal stop containerd
python -m rehearsal start containerd

echo "== NVIDIA's device plugin and GPU Feature Discovery as an image, and Node Feature Discovery"
python - "$bin"/k8s-device-plugin-*/* <<'END'
import sys
from pathlib import Path

from rehearsal import images, toolchain
from rehearsal.layout import Layout

layout = Layout.from_environment()
images.push_programs(layout, toolchain.ready(layout), images.PLUGIN, [Path(program) for program in sys.argv[1:]])
END
features=$(echo "$bin"/node-feature-discovery-*)
kubectl apply -f "$features/nfd-api-crds.yaml"
kubectl create namespace node-feature-discovery --dry-run=client -o yaml | kubectl apply -f -
export NODE_NAME=rehearsal KUBERNETES_NAMESPACE=node-feature-discovery
"$features/nfd-master" -kubeconfig $GPUOPS_NIM_STATE/kubeconfig -port 28080 > $base/nfd-master.log 2>&1 &
master=$!
trap 'kill $master; python -m rehearsal down --purge' EXIT
until kubectl wait --for=condition=Ready node/rehearsal --timeout=60s; do sleep 1; done
"$features/nfd-worker" -kubeconfig $GPUOPS_NIM_STATE/kubeconfig -oneshot -no-owner-refs > $base/nfd-worker.log 2>&1

echo "== KServe, the device plugin, the host's row"
nodes_and_plugin
echo "== again"
nodes_and_plugin > $base/second
tail -4 $base/second
fails grep -q 'changed=[1-9]' $base/second
echo "== what NVIDIA's programs did"
kubectl get daemonset,pod -n nvidia-device-plugin
kubectl logs -n nvidia-device-plugin -l app.kubernetes.io/name=nvidia-device-plugin --tail=-1 | grep 'version=\|Detected platform\|Registered'
for _ in $(seq 30); do # nfd-master puts them there
  kubectl get node rehearsal -L nvidia.com/gpu.product --no-headers | grep NVIDIA && break
  sleep 1
done
kubectl get node rehearsal -o yaml | grep -E '^ +(nvidia.com|feature.node.kubernetes.io/pci)'

echo "== the service"
play tests/gpu/path.yml ||
  { kubectl get pods,events -A; kubectl logs -l serving.kserve.io/inferenceservice=matrix-product --tail=40; exit 1; }
kubectl get inferenceservice,pod -o wide
kubectl delete inferenceservice matrix-product
until [ -z "$(kubectl get pod -l serving.kserve.io/inferenceservice=matrix-product -o name)" ]; do sleep 1; done # the GPU is free
. tests/gpu/plugin.sh
