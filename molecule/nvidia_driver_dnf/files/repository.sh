#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A signed rpm repository with module streams, as NVIDIA's for EL 9, of stand-ins for the driver's packages, in
# /srv/repository, and one of what EL brings itself, in /srv/base. Names, epochs, dependencies, conflicts and streams are
# the real ones; no module is built and no GPU is driven.
set -eu
specs=$(mktemp -d)
kernel=$(uname -r)
mkdir -p /srv/repository /srv/base

build() { # folder, spec
    rpmbuild -bb --quiet --define "_rpmdir /srv/$1" --define '_unpackaged_files_terminate_build 0' "$specs/$2.spec"
}

simple() { # name, version, files, more
    cat > "$specs/$1.spec" <<SPEC
Name: $1
Version: $2
Release: 1
Summary: stand-in
License: none
BuildArch: noarch
${4-}
%description
%install
mkdir -p %{buildroot}/usr/lib/modules/$kernel/build %{buildroot}/usr/share/stand-in
echo all: > %{buildroot}/usr/lib/modules/$kernel/build/Makefile
touch %{buildroot}/usr/share/stand-in/$1
%files
$3
SPEC
    build base "$1"
}

driver() { # version
    cat > "$specs/driver.spec" <<SPEC
%define modules() \\
%package -n %1 \\
Summary: stand-in \\
Conflicts: %2 \\
Provides: nvidia-kmod = %{epoch}:%{version} \\
%description -n %1 \\
%files -n %1 \\
%post -n %1 \\
tree=/var/lib/dkms/nvidia \\
mkdir -p \$tree/$1/source \$tree/$1/$kernel/x86_64/module \\
ln -sfn $1/$kernel/x86_64 \$tree/kernel-$kernel-x86_64 \\
%postun -n %1 \\
rm -rf /var/lib/dkms/nvidia/$1 \\
[ \$1 != 0 ] || rm -rf /var/lib/dkms/nvidia \\
%{nil}
Name: nvidia-driver
Epoch: 3
Version: $1
Release: 1.el9
Summary: stand-in
License: none
%description
%modules kmod-nvidia-open-dkms kmod-nvidia-latest-dkms
%modules kmod-nvidia-latest-dkms kmod-nvidia-open-dkms
%package -n nvidia-driver-cuda
Summary: stand-in
Requires: nvidia-kmod = %{epoch}:%{version}
Requires: nvidia-persistenced = %{epoch}:%{version}
%description -n nvidia-driver-cuda
%files -n nvidia-driver-cuda
/usr/bin/nvidia-smi
/usr/lib64/libnvidia-ml.so.$1
%package -n nvidia-persistenced
Summary: stand-in
%description -n nvidia-persistenced
%files -n nvidia-persistenced
/usr/bin/nvidia-persistenced
/usr/lib/systemd/system/nvidia-persistenced.service
%package -n nvidia-fabricmanager
Summary: stand-in
%description -n nvidia-fabricmanager
%files -n nvidia-fabricmanager
/usr/bin/nv-fabricmanager
/usr/lib/systemd/system/nvidia-fabricmanager.service
%package -n libnvidia-nscq
Summary: stand-in
%description -n libnvidia-nscq
%files -n libnvidia-nscq
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/usr/lib64 %{buildroot}/usr/lib/systemd/system
touch %{buildroot}/usr/lib64/libnvidia-ml.so.$1
cat > %{buildroot}/usr/bin/nvidia-smi <<'SMI'
#!/bin/sh
[ "\$(cat /sys/module/nvidia/version 2>/dev/null)" = $1 ] || { echo "Driver/library version mismatch"; exit 18; }
echo GPU-stand-in
SMI
printf '#!/bin/sh\nexec sleep infinity\n' | tee %{buildroot}/usr/bin/nv-fabricmanager > %{buildroot}/usr/bin/nvidia-persistenced
chmod 755 %{buildroot}/usr/bin/*
unit() {
    printf '[Service]\nExecStart=/usr/bin/%s\n[Install]\nWantedBy=multi-user.target\n' "\$2" \
        > "%{buildroot}/usr/lib/systemd/system/\$1.service"
}
unit nvidia-persistenced "nvidia-persistenced --user nvidia-persistenced --no-persistence-mode"
unit nvidia-fabricmanager nv-fabricmanager
SPEC
    build repository driver
}

stream() { # stream, version, modules
    cat <<YAML
---
document: modulemd
version: 2
data:
  name: nvidia-driver
  stream: "$1"
  version: 20261101
  context: "$(echo "$1" | md5sum | cut -c1-8)"
  arch: x86_64
  summary: stand-in
  description: stand-in
  license: {module: [none]}
  profiles:
    default: {rpms: [nvidia-driver-cuda, $3]}
  artifacts:
    rpms:
YAML
    for name in nvidia-driver-cuda nvidia-persistenced nvidia-fabricmanager libnvidia-nscq "$3"; do
        for version in $2; do echo "    - $name-3:$version-1.el9.x86_64"; done
    done
    echo ...
}

for version in 580.95.05 580.178.04 595.91.07; do driver $version; done
simple "kernel-devel-$kernel" 1 "/usr/lib/modules/$kernel/build/Makefile"
simple bash 5 /usr/share/stand-in/bash "Provides: /bin/sh"
simple epel-release 9 /usr/share/stand-in/epel-release
simple python3-dnf-plugin-versionlock 4 /usr/share/stand-in/python3-dnf-plugin-versionlock

gpg="gpg --batch --quiet --passphrase="
$gpg --quick-generate-key tests@example.com rsa3072 sign never
$gpg --armor --export > /srv/repository/key.asc
$gpg --list-keys --with-colons | sed -n 's/^fpr:*\([0-9A-F]*\):/\1/p' | head -n 1 > /srv/repository/fingerprint
rpmsign --define '_gpg_name tests@example.com' --addsign $(find /srv/repository -name '*.rpm') > /dev/null
gpgconf --kill all

for folder in repository base; do createrepo_c --quiet /srv/$folder; done
{
    stream 580-open "580.95.05 580.178.04" kmod-nvidia-open-dkms
    stream 580-dkms "580.95.05 580.178.04" kmod-nvidia-latest-dkms
    stream 595-open 595.91.07 kmod-nvidia-open-dkms
} > "$specs/modules.yaml"
modifyrepo_c --mdtype=modules "$specs/modules.yaml" /srv/repository/repodata
rm -r "$specs"
