#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# In the system of run.sh: from a bare host with systemd, in which the card and its driver are, to a model's answer, and
# what becomes of its pod when others change the host.
set -euo pipefail
export NGC_API_KEY=nvapi-rehearsal-valid-0123456789abcdefghijklmnopqrstuvwxyz ANSIBLE_NOCOLOR=1
node=gpu-1
cards=$(ls /proc/driver/nvidia/gpus | wc -l)
cache=$HOME/.cache/gpuops-nim
bin=$cache/bin
export state=$HOME/.local/state/gpuops-nim/rehearsal cache node
mkdir -p collections/ansible_collections/gpuops
ln -sfn ../../.. collections/ansible_collections/gpuops/nim

rehearsal() { python3 -m rehearsal "$@"; }
kubectl() { "$bin"/kubernetes-*/kubectl --kubeconfig "$state/kubeconfig" "$@"; }
host() { rehearsal host ssh $node "$@"; }
fails() { ! "$@"; }
play() { python3 -m ansible playbook -i tests/gpu/hosts.yml -e nim_kubeconfig="$state/kubeconfig" "$@"; }
hosts() { play playbooks/gpu_hosts.yml -e kserve_wait_timeout=60 -e device_plugin_wait_timeout=90 -e kserve_manifests="$(echo "$bin"/kserve-manifests-*/v0.20.0/kserve.yaml)" "$@"; }
unchanged() {
  "$@" > /tmp/again || { cat /tmp/again; exit 1; }
  tail -4 /tmp/again
  fails grep -q 'changed=[1-9]' /tmp/again
}

end() {
  if [ "$1" != 0 ]; then
    kubectl get pods -A
    kubectl get events -A --field-selector type=Warning | tail -20
    host 'journalctl --no-pager --lines=20 --unit=kubelet --unit=containerd'
  fi
  rehearsal down --purge
}

echo "== the cluster"
trap 'end $?' EXIT
rehearsal down --purge
rehearsal up --bare
python3 -m http.server --bind 127.0.0.1 --directory "$cache/packages" 25446 > /tmp/packages.log 2>&1 &

echo "== the host, a node of it"
python3 - <<'END' # torch is the machine's own: pods find it in the host
import os
from pathlib import Path

from rehearsal import hosts
from rehearsal.layout import Layout
from rehearsal.progress import Progress

layout = Layout.from_environment()
torch = ("opt/torch", "usr/lib/python3.12", "usr/bin/python3.12")
shared = (layout.volumes, *(Path("/machine", path) for path in torch))
hosts.up(layout, Progress(), os.environ["node"], "trixie", shared)
END
cp -a /machine/usr/lib/x86_64-linux-gnu "$state/volumes/libraries" # CDI adds the driver's to them
rehearsal host up $node --release trixie --node
root=$state/hosts/$node/root
rm -rf "$root"/etc/apt/sources.list* && mkdir "$root/etc/apt/sources.list.d" # there is no way to Debian's archive
# the driver's files, where its packages put them
driver=$(cat /sys/module/nvidia/version)
find /machine/usr -name "lib*.so.$driver" -not -path '*32*' -not -path '*i386*' -exec cp {} "$root/usr/lib/x86_64-linux-gnu/" \;
for program in nvidia-smi nvidia-debugdump; do
  find /machine/usr -path "*/bin/$program" -size +99k -exec cp -L {} "$root/usr/bin/" \;
done
# the machine loads its modules from elsewhere, and the toolkit's unit looks here whether there is a driver
mkdir -p "$root/usr/lib/modules/$(uname -r)"
echo 'updates/dkms/nvidia.ko:' > "$root/usr/lib/modules/$(uname -r)/modules.dep"
host ldconfig
for device in /dev/nvidia*; do
  [ ! -c "$device" ] || host mknod -m 666 "$device" c $(stat -c '0x%t 0x%T' "$device")
done
host 'systemctl --version | head -1; containerd --version; runc --version | head -1; stat --file-system --format=%T /sys/fs/cgroup'
host nvidia-smi --query-gpu=name,driver_version --format=csv,noheader

echo "== NVIDIA's device plugin and GPU Feature Discovery as an image, and Node Feature Discovery"
python3 - "$bin"/k8s-device-plugin-*/* <<'END'
import sys
from pathlib import Path

from rehearsal import images, toolchain
from rehearsal.layout import Layout

layout = Layout.from_environment()
images.push_programs(layout, toolchain.ready(layout), images.PLUGIN, [Path(program) for program in sys.argv[1:]])
END
features=$(echo "$bin"/node-feature-discovery-*)
kubectl apply -f "$features/nfd-api-crds.yaml"
kubectl create namespace node-feature-discovery
export NODE_NAME=$node KUBERNETES_NAMESPACE=node-feature-discovery
"$features/nfd-master" -kubeconfig "$state/kubeconfig" -port 28080 > /tmp/nfd-master.log 2>&1 &
"$features/nfd-worker" -kubeconfig "$state/kubeconfig" -oneshot -no-owner-refs > /tmp/nfd-worker.log 2>&1

echo "== container toolkit, KServe, device plugin, the host's row"
hosts --skip-tags driver
echo "== again"
unchanged hosts --skip-tags driver
echo "== what NVIDIA's programs did"
host nvidia-ctk cdi list
kubectl get daemonset,pod -n nvidia-device-plugin
kubectl logs -n nvidia-device-plugin -l app.kubernetes.io/name=nvidia-device-plugin --tail=-1 | grep 'version=\|Detected platform\|Registered'
for _ in $(seq 30); do # nfd-master puts them there
  kubectl get node $node -L nvidia.com/gpu.product --no-headers | grep NVIDIA && break
  sleep 1
done
kubectl get node $node -o yaml | grep -E '^ +(nvidia.com|feature.node.kubernetes.io/pci)'

echo "== the service"
service() {
  play tests/gpu/path.yml "$@" || { kubectl logs -l serving.kserve.io/inferenceservice=matrix-product --tail=40; exit 1; }
}
service
kubectl get inferenceservice,pod -o wide
python3 -m ansible adhoc -i tests/gpu/hosts.yml $node -m gpuops.nim.gpu_host_info
echo "== the toolkit again, beside the pod"
unchanged hosts --tags toolkit
echo "== a change that would disturb the pod"
fails hosts --tags toolkit -e container_toolkit_default_runtime=true > /tmp/refused
grep -A4 'would disturb' /tmp/refused
for default in true false; do
  echo "== the same, drained first: container_toolkit_default_runtime=$default"
  hosts --tags toolkit,kserve,plugin,verify -e container_toolkit_drain=true -e container_toolkit_default_runtime=$default > /tmp/drained ||
    { cat /tmp/drained; exit 1; }
  grep -B1 -A3 "of $cards\$" /tmp/drained
  service | grep 'NVIDIA'
done
if [ "$cards" -gt 1 ]; then
  echo "== the service with $cards cards"
  service -e gpus="$cards" | grep 'NVIDIA'
fi
kubectl delete inferenceservice matrix-product
until [ -z "$(kubectl get pod -l serving.kserve.io/inferenceservice=matrix-product -o name)" ]; do sleep 1; done # the GPU is free
. tests/gpu/plugin.sh
