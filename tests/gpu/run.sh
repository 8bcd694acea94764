#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The GPU path on a machine that has a card and its driver and reaches nothing: unpacks, from the folder that is named, the
# system that pack.sh made elsewhere, and runs path.sh in it. docs/gpu-path.md tells what this shows, and what it does not.
set -euo pipefail
packed=$(realpath "$1")
cd "$(dirname "$0")/../.."
export root=/var/tmp/gpu-path
mkdir -p $root
[ -e $root/machine ] || cat "$packed"/machine.* | tar -C $root -xJf -
rm -rf $root/opt/gpuops.nim
mkdir -p $root/opt/gpuops.nim
tar --exclude=./build --exclude=./.git --exclude=./.venv --exclude=./collections -cf - . | tar -C $root/opt/gpuops.nim -xf -

# the machine itself stays in reach, as /machine, and can't be written to
exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc bash -euc '
  mount --bind $root $root
  mount -t proc proc $root/proc
  mount -t sysfs sysfs $root/sys
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
  else
    mount --rbind /sys/fs/cgroup $root/sys/fs/cgroup
  fi
  mount --rbind /dev $root/dev
  mount -t tmpfs tmpfs $root/run
  mount -t tmpfs tmpfs $root/tmp
  cd $root
  pivot_root . machine # no chroot: systemd-nspawn wants / to be a mount
  mount -o remount,bind,ro /machine
  cd /opt/gpuops.nim
  exec env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/bin:/usr/sbin:/usr/bin bash tests/gpu/path.sh' < /dev/null
