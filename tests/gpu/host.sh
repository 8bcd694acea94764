#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A Debian host with systemd, with the card of a machine that has a driver and cgroup v2 and reaches nothing: role
# container_toolkit runs in it, and containers keep the GPU over `systemctl daemon-reload`. What it needs lies in the folder
# that is named, made by `tests/gpu/pack.sh host` elsewhere; what follows is for ansible-playbook.
set -euo pipefail
packed=$(realpath "$1")
shift
cd "$(dirname "$0")/../.."
base=/var/tmp/gpu-host
root=$base/root
mkdir -p $root

if [ ! -e $root/etc/debian_version ]; then
  cat "$packed"/host.* | tar -C $root -xJf -
  # what containers start with: Debian's /usr as it is before the driver comes
  mkdir -p $root/opt/image/{dev,proc,sys,tmp,run,etc}
  cp -a $root/usr $root/{bin,sbin,lib,lib64} $root/opt/image/
  # the driver's files, where its packages put them
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
  find /usr -name "lib*.so.$driver" -not -path '*32*' -not -path '*i386*' -exec cp {} $root/usr/lib/x86_64-linux-gnu/ \;
  for program in nvidia-smi nvidia-debugdump; do
    ! found=$(command -v $program) || cp "$(realpath "$found")" $root/usr/bin/$program
  done
  chroot $root ldconfig
  # the machine loads its modules from elsewhere, and the toolkit's unit looks here whether there is a driver
  modules=$root/usr/lib/modules/$(uname -r)
  mkdir -p "$modules"
  [ ! -d /sys/module/nvidia ] || echo 'updates/dkms/nvidia.ko:' > "$modules/modules.dep"
fi
mkdir -p $root/opt/collections/ansible_collections/gpuops/nim
cp -r galaxy.yml meta plugins roles $root/opt/collections/ansible_collections/gpuops/nim/
cp tests/gpu/{host.yml,reload.sh} $root/opt/
cp tests/gpu/hold.py $root/opt/image/

rm -rf $root/var/lib/containerd # containers of a run before
mkdir -p $root/etc/containerd
cat > $root/etc/containerd/config.toml <<'END'
version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = true
END
cat > $root/etc/systemd/system/containerd.service <<'END'
[Service]
ExecStart=/usr/local/bin/containerd
Type=notify
Delegate=yes
KillMode=process
[Install]
WantedBy=multi-user.target
END
cat > $root/etc/systemd/system/packages.service <<'END'
[Service]
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /opt/packages 25446
[Install]
WantedBy=multi-user.target
END
systemctl() { chroot $root systemctl "$@"; }
systemctl --quiet enable containerd packages

# systemd-nspawn is in the root itself, which boots as a bind of itself; cgroups are the machine's
binds=()
for device in /dev/nvidia*; do binds+=("--bind=$device"); done
mkdir -p $root/var/lib/machines/gpu-host
export root
unshare --mount --propagation private --pid --fork --kill-child --mount-proc bash -euc '
  mount --bind $root $root # systemd-nspawn wants / to be a mount
  mount --bind $root $root/var/lib/machines/gpu-host
  mount -t proc proc $root/proc
  mount -t sysfs sysfs $root/sys
  mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
  mount --rbind /dev $root/dev
  mount -t tmpfs tmpfs $root/run
  for controller in cpu cpuset io memory pids; do
    echo +$controller > $root/sys/fs/cgroup/cgroup.subtree_control || true
  done
  mkdir -p $root/sys/fs/cgroup/gpu-host
  echo 0 > $root/sys/fs/cgroup/gpu-host/cgroup.procs
  mkdir $root/run/machine
  cd $root
  pivot_root . run/machine # no chroot: who enters a container later would be out of it
  umount --lazy /run/machine
  systemd-nspawn --quiet --directory=/var/lib/machines/gpu-host --machine=gpu-host --boot --register=no \
    --keep-unit --link-journal=no --console=read-only --resolv-conf=off --capability=all --system-call-filter=@known \
    --bind=/dev/kmsg "$@"
  true # so that it is no exec: as the first process systemd-nspawn says nothing' bash "${binds[@]}" < /dev/null > $base/console.log 2>&1 &
unshare=$!
trap 'kill -9 $unshare' EXIT
child() { cat /proc/"$1"/task/"$1"/children 2> /dev/null; }
inside() {
  local process=$unshare
  for _ in shell systemd-nspawn init; do process=$(child "${process%% *}"); done
  nsenter --target "${process%% *}" --all env -i --chdir=/opt HOME=/root LC_ALL=C.UTF-8 PYTHONPATH=/opt/ansible \
    ANSIBLE_NOCOLOR=1 ANSIBLE_DISPLAY_SKIPPED_HOSTS=0 \
    ANSIBLE_COLLECTIONS_PATH=/opt/collections PATH=/opt/ansible/bin:/usr/local/bin:/usr/sbin:/usr/bin "$@"
}
for _ in $(seq 100); do
  state=$(inside systemctl is-system-running --wait 2> $base/boot) || true
  case $state in running | degraded) break ;; esac
  sleep 0.2
done
case $state in running | degraded) ;; *) tail -n 40 $base/console.log $base/boot; exit 1 ;; esac

playbook() { inside python3 -m ansible playbook /opt/host.yml -e fingerprint="$(cat $root/opt/packages/fingerprint)" "$@"; }
echo "== the host: $(inside systemctl --version | head -1), $(inside containerd --version), $(inside runc --version | head -1)"
inside nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
echo "== role container_toolkit"
playbook "$@"
echo "== containers and daemon-reload"
inside bash /opt/reload.sh start
echo "== the role again, beside containers that compute"
playbook "$@" > $base/second
tail -3 $base/second
grep -q 'changed=0 .*failed=0' $base/second
echo "== a change that would disturb them"
! playbook "$@" -e container_toolkit_default_runtime=true > $base/refused
grep -A4 'would disturb' $base/refused
inside bash /opt/reload.sh reload
