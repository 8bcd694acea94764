#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# `headers.sh break`: takes functions that the driver calls out of the headers of Debian's kernels, as Linux 6.15 did.
# `headers.sh repair`: puts them back.
set -e
for file in /usr/src/linux-headers-*-common/include/linux/timer.h; do
    case $1 in
    break) sed -i.kept 's/\<\(del_timer_sync\|timer_delete_sync\)(/removed_&/' "$file" ;;
    repair) mv "$file.kept" "$file" ;;
    esac
done
