#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A signed rpm repository of stand-ins for the container toolkit's packages, as NVIDIA's: `toolkit.sh FOLDER`. Names and
# dependencies are the real ones; there is nothing in them. The key is that of repository.sh.
set -eu
folder=$1/stable/rpm/x86_64
specs=$(mktemp -d)
mkdir -p "$folder"

package() { # name, requirements
    printf '%%package -n %s\nSummary: stand-in\n' "$1"
    shift
    [ $# = 0 ] || printf 'Requires: %s\n' "$@"
}

for version in 1.19.1 1.20.1 1.20.2; do
    {
        printf 'Name: toolkit\nVersion: %s\nRelease: 1\nSummary: stand-in\nLicense: none\n%%description\n' $version
        package libnvidia-container1
        package libnvidia-container-tools "libnvidia-container1 >= %{version}-%{release}"
        package nvidia-container-toolkit-base
        package nvidia-container-toolkit "nvidia-container-toolkit-base = %{version}-%{release}" \
            "libnvidia-container-tools >= 1.19.1" "libnvidia-container-tools < 2.0.0"
        for name in libnvidia-container1 libnvidia-container-tools nvidia-container-toolkit-base nvidia-container-toolkit; do
            printf '%%description -n %s\n%%files -n %s\n' $name $name
        done
    } > "$specs/toolkit.spec"
    rpmbuild -bb --quiet --define "_rpmdir $specs/rpms" "$specs/toolkit.spec"
done
mv "$specs"/rpms/*/*.rpm "$folder"
createrepo_c --quiet "$folder"
gpg --batch --quiet --armor --detach-sign "$folder/repodata/repomd.xml"
gpgconf --kill all
cp /srv/repository/key.asc "$1/gpgkey"
rm -r "$specs"
