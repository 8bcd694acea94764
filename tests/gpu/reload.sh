#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# In the host of host.sh. Three containers have the GPU, each in a scope of systemd's, as the kubelet has them made:
#   cdi      containerd looks the device up in CDI, which is what a device plugin's answer leads to
#   handler  the runtime of the handler nvidia, as with a RuntimeClass
#   untold   like cdi, but systemd is made to forget the device: so the toolkit's old hook leaves a container
set -euo pipefail
names=(cdi handler untold)
id() { sha256sum <<< "$1" | cut -c -64; }
slice() { echo "kubepods-besteffort-pod$(id "$1" | sed -E 's/(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1_\2_\3_\4_\5/').slice"; }
scope() { echo "cri-containerd-$(id "$1").scope"; }
log() { echo "/run/gpu/$1/log"; }
turns() { tail -1 "$(log "$1")" | grep -o '[0-9]* times'; }
anew() { ctr task exec --exec-id "anew-$RANDOM" "$(id "$1")" "${@:2}" 2>&1; }

start() {
  for name in "${names[@]}"; do
    given=(--device nvidia.com/gpu=0)
    [ "$name" != handler ] || given=(--runc-binary /usr/bin/nvidia-container-runtime --env NVIDIA_VISIBLE_DEVICES=0
      --env NVIDIA_DRIVER_CAPABILITIES=compute,utility)
    mkdir -p "/run/gpu/$name"/{root,upper,work}
    mount -t overlay -o "lowerdir=/opt/image,upperdir=/run/gpu/$name/upper,workdir=/run/gpu/$name/work" overlay "/run/gpu/$name/root"
    # no share of the CPU: not every machine lets a host in a host set one
    setsid ctr run --cpu-shares 0 --rootfs --runc-systemd-cgroup --cgroup "$(slice "$name"):cri-containerd:$(id "$name")" "${given[@]}" \
      --env PATH=/usr/bin "/run/gpu/$name/root" "$(id "$name")" python3 /hold.py forever > "$(log "$name")" 2>&1 < /dev/null &
    for _ in $(seq 100); do turns "$name" > /dev/null 2>&1 && break; sleep 0.2; done
    echo "$name: $(tail -1 "$(log "$name")")"
    turns "$name" > /dev/null
    echo "$name: DeviceAllow=$(systemctl show --property=DeviceAllow --value "$(scope "$name")" | tr '\n' ' ')"
    anew "$name" nvidia-smi -L
  done
}

reload() {
  # the devices of major number 195 are /dev/nvidia0 and /dev/nvidiactl
  find /run/systemd/transient -path "*$(scope untold)*" -type f -exec sed -i '\,^DeviceAllow=/dev/char/195:,d' {} +
  echo "-- systemctl daemon-reload"
  systemctl daemon-reload
  echo "untold after it alone: $(sleep 2; tail -1 "$(log untold)")"
  # whether systemd sets a scope's rules anew at once depends on its release; a property of them makes it do so
  for name in "${names[@]}"; do
    systemctl set-property --runtime "$(scope "$name")" DeviceAllow='/dev/null rwm'
    echo "$name: DeviceAllow=$(systemctl show --property=DeviceAllow --value "$(scope "$name")" | tr '\n' ' ')"
  done
  for name in cdi handler; do
    before=$(turns "$name")
    sleep 2
    echo "$name: goes on computing, $before before, $(turns "$name") now"
    [ "$before" != "$(turns "$name")" ]
    anew "$name" nvidia-smi -L
    echo "$name: a new process: $(anew "$name" python3 /hold.py)"
  done
  echo "untold: $(tail -1 "$(log untold)")"
  grep -q 'Operation not permitted' "$(log untold)" || { echo "the control keeps the GPU: this shows nothing"; exit 1; }
}

"$1"
