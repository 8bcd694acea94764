#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_host_info
version_added: 0.1.0
short_description: What a host has of NVIDIA GPUs, driver, container toolkit and container runtimes
description:
  - Reads C(/sys), C(/proc), C(/etc) and the package database of the host that it runs on. Neither a driver nor C(lspci)
    nor a Python package is needed. Nothing is changed.
  - A host without a GPU is a normal answer, and so is one with a broken file. What could not be read stands in
    RV(ignore:gpu_host.problems), and its value is null.
  - Run it with C(become), or the processes of other users can't be told from those that leave the GPUs alone.
  - Programs are started only where no file tells, and only if O(root) is V(/). C(rpm) lists the packages, C(modinfo)
    tells the license of a kernel module, C(containerd), C(crio), C(dockerd) and C(nvidia-ctk) tell versions of
    binaries that no package brought, C(containerd config dump) tells a configuration in a form of TOML that this
    module can't read.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.attributes
options:
  root:
    description:
      - The folder that holds the system to look at, such as a mounted image. Links in it that start with V(/) are
        followed inside of it. Anything but V(/) starts no program.
    type: path
    default: /
  gather:
    description:
      - The parts of RV(gpu_host) to return, such as V(users) alone to ask again before a change.
        RV(ignore:gpu_host.problems) is always there.
    type: list
    elements: str
    choices:
      - os
      - kernel
      - gpus
      - nvswitches
      - nvlink5
      - driver
      - nouveau
      - secure_boot
      - toolkit
      - runtimes
      - cdi
      - users
      - managers
    default:
      - os
      - kernel
      - gpus
      - nvswitches
      - nvlink5
      - driver
      - nouveau
      - secure_boot
      - toolkit
      - runtimes
      - cdi
      - users
      - managers
attributes:
  check_mode:
    support: full
    details: It never changes anything.
  diff_mode:
    support: none
    details: Nothing changes, so there is no difference to show.
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Look at all GPU hosts
  gpuops.nim.gpu_host_info:
  become: true
  register: facts

- name: What needs a reboot?
  ansible.builtin.debug:
    var: facts.gpu_host.driver.reboot_reason
  when: facts.gpu_host.driver.reboot_needed

- name: Who uses the GPUs now?
  gpuops.nim.gpu_host_info:
    gather: [users]
  become: true
  register: now

- name: Look at a mounted image
  gpuops.nim.gpu_host_info:
    root: /mnt/image
"""

RETURN = r"""
gpu_host:
  description: The host. It holds the parts that O(gather) names, and RV(ignore:gpu_host.problems).
  returned: success
  type: dict
  contains:
    os:
      description: The operating system, from C(os-release).
      type: dict
      contains:
        id:
          description:
            - Its C(ID), such as V(debian), V(ubuntu), V(rhel), V(rocky), V(almalinux), V(alinux), V(amzn) or V(sles).
          type: str
          sample: ubuntu
        id_like:
          description: Its C(ID_LIKE), nearest first.
          type: list
          elements: str
          sample: [debian]
        version:
          description: Its C(VERSION_ID). Null for a rolling release, which has none.
          type: str
          sample: "24.04"
        name:
          description: Its C(PRETTY_NAME).
          type: str
          sample: Ubuntu 24.04.3 LTS
        platform_id:
          description: Its C(PLATFORM_ID), which DNF compares with those of module streams. Null where there is none.
          type: str
          sample: platform:el9
        arch:
          description:
            - The machine's architecture, as C(uname -m) tells it. Null for another O(root) without
              C(/proc/sys/kernel/arch).
          type: str
          sample: x86_64
    kernel:
      description: The kernels.
      type: dict
      contains:
        running:
          description: The release of the running kernel. Null for a O(root) without C(/proc).
          type: str
          sample: 6.8.0-87-generic
        next:
          description:
            - The one a reboot would start. The boot loader's saved choice where it is an entry of the Boot Loader
              Specification (EL, Amazon Linux), else the newest that is installed.
            - Null where none is installed, as in a container or a virtual machine whose kernel comes from outside.
          type: str
          sample: 6.8.0-88-generic
        headers:
          description: Whether a module can be built for the kernel. Null where the kernel is.
          type: dict
          contains:
            running:
              description: For the running one.
              type: bool
              sample: true
            next:
              description: For the next one.
              type: bool
              sample: true
    gpus:
      description: NVIDIA display controllers on the PCI bus, by address.
      type: list
      elements: dict
      contains:
        address:
          description: PCI address.
          type: str
          sample: "0000:00:06.0"
        device_id:
          description: Vendor and device.
          type: str
          sample: "10de:2330"
        name:
          description: As the loaded driver names it, else from this collection's table. Null if neither knows.
          type: str
          sample: NVIDIA H100 80GB HBM3
        generation:
          description:
            - V(maxwell), V(pascal), V(volta), V(turing), V(ampere), V(ada), V(hopper) or V(blackwell).
            - Null where the device's number doesn't tell.
          type: str
          sample: hopper
        memory_mib:
          description:
            - The memory that the card is sold with, in MiB; a program gets a little less. Null if the table doesn't
              have it.
          type: int
          sample: 81920
        kernel_driver:
          description:
            - The kernel's driver that has the card, such as V(nvidia), V(nouveau) or V(vfio-pci). Null if none has.
          type: str
          sample: nvidia
    nvswitches:
      description: NVSwitches on the PCI bus (NVLink up to 4, as in HGX A100 and H100).
      type: list
      elements: dict
      contains:
        address:
          description: PCI address.
          type: str
          sample: "0000:87:00.0"
        device_id:
          description: Vendor and device.
          type: str
          sample: "10de:22a3"
    nvlink5:
      description:
        - Whether NVSwitches of NVLink 5 are here (HGX B200, B300), which are managed over InfiniBand.
        - They can be seen only with the kernel's C(mlx5_core) and C(mlx5_ib) loaded.
      type: bool
      sample: false
    driver:
      description: NVIDIA's driver.
      type: dict
      contains:
        loaded:
          description: The one in the running kernel. Null if none is.
          type: dict
          contains:
            version:
              description: Its version.
              type: str
              sample: 580.159.04
            flavour:
              description: V(open) or V(proprietary) kernel modules. Null if it can't be told.
              type: str
              sample: open
        installed:
          description: The one on the disk. Null if none is; a driver in a container of the GPU Operator does not count.
          type: dict
          contains:
            version:
              description: Its version. That of the kernel modules' package or DKMS entry, else that of the libraries.
              type: str
              sample: 580.178.04
            flavour:
              description: V(open) or V(proprietary). Null if it can't be told, as for libraries without kernel modules.
              type: str
              sample: open
            method:
              description: V(package), V(runfile) for NVIDIA's own installer, V(unknown) where neither knows of it.
              type: str
              sample: package
        dkms:
          description:
            - What DKMS has of the driver, for each kernel it was built for, and for the running and the next one if
              it was not.
          type: list
          elements: dict
          contains:
            module:
              description: DKMS's name of it.
              type: str
              sample: nvidia
            version:
              description: Its version.
              type: str
              sample: 580.178.04
            kernel:
              description: The kernel. Null only where no kernel is known.
              type: str
              sample: 6.8.0-88-generic
            state:
              description:
                - V(installed), V(installed-weak) for a module of another kernel that EL links to this one, V(built),
                  V(added) if not built for this kernel, V(broken) if the sources are gone.
              type: str
              sample: installed
        reboot_needed:
          description: Whether the installed driver can work only after a reboot.
          type: bool
          sample: true
        reboot_reason:
          description: Why. Null if it is not needed.
          type: str
          sample: Driver 580.159.04 is loaded, 580.178.04 is installed.
        ready_for_next_kernel:
          description:
            - Whether the driver's module is there for the kernel that a reboot would start. Without, the host would
              come up without GPUs.
            - Null where no driver is installed, and where RV(gpu_host.kernel.next) is.
          type: bool
          sample: true
    nouveau:
      description: The kernel's own driver for NVIDIA cards.
      type: dict
      contains:
        loaded:
          description: Whether it is in the running kernel.
          type: bool
          sample: false
        blacklisted:
          description: Whether C(modprobe.d) or the kernel's command line keeps it from being loaded.
          type: bool
          sample: true
    secure_boot:
      description: Secure Boot and the machine owner's keys.
      type: dict
      contains:
        enabled:
          description:
            - Whether the kernel takes signed modules only. False without UEFI, and where shim's validation is
              switched off.
            - Null if it can't be told.
          type: bool
          sample: false
        signing_keys:
          description: Certificates on the disk that DKMS or akmods signs modules for. They may not be enrolled.
          type: list
          elements: str
          sample: [/var/lib/shim-signed/mok/MOK.der]
        enrolled:
          description: Those of them that the firmware's list of the owner's keys (MOK) holds.
          type: list
          elements: str
          sample: []
    toolkit:
      description: NVIDIA's container toolkit. Null if there is none.
      type: dict
      contains:
        version:
          description: Its version. Null where only a binary is here and can't be asked.
          type: str
          sample: 1.20.0
        packages:
          description: Its installed packages and their versions, as the package manager writes them.
          type: dict
          sample:
            libnvidia-container-tools: 1.20.0-1
            libnvidia-container1: 1.20.0-1
            nvidia-container-toolkit: 1.20.0-1
            nvidia-container-toolkit-base: 1.20.0-1
    runtimes:
      description: Container runtimes that are installed, and what their configuration files say.
      type: list
      elements: dict
      contains:
        name:
          description: V(containerd), V(crio) or V(docker).
          type: str
          sample: containerd
        flavour:
          description:
            - V(plain), or who brought containerd, V(k3s), V(rke2), V(microk8s) or V(kubespray), which writes its
              configuration anew whenever it runs.
          type: str
          sample: plain
        version:
          description:
            - Its version. Null where it can't be told, as that of a binary without a package under another O(root).
          type: str
          sample: 2.1.5
        config:
          description:
            - Its configuration file, as a path inside O(root). Null if there is none, so it runs with its defaults.
          type: str
          sample: /etc/containerd/config.toml
        config_version:
          description: The C(version) in containerd's file. Null where there is none, and for other runtimes.
          type: int
          sample: 3
        default_runtime:
          description: The handler of pods without a RuntimeClass. Null if the configuration can't be read.
          type: str
          sample: runc
        nvidia_handler:
          description: Whether there is a handler C(nvidia).
          type: bool
          sample: true
        cdi:
          description: Whether devices can be given by CDI names.
          type: bool
          sample: true
        systemd_cgroup:
          description: Whether the default runtime makes cgroups through systemd. Null if it can't be told.
          type: bool
          sample: true
        imports:
          description: containerd's C(imports), CRI-O's drop-in files.
          type: list
          elements: str
          sample: [/etc/containerd/conf.d/*.toml]
        problems:
          description: What keeps the configuration from doing what it seems to do, one sentence each.
          type: list
          elements: str
          sample: [The CRI plugin is disabled.]
    cdi:
      description: CDI specifications of NVIDIA devices.
      type: dict
      contains:
        specs:
          description: In C(/etc/cdi) and C(/run/cdi).
          type: list
          elements: dict
          contains:
            path:
              description: The file.
              type: str
              sample: /run/cdi/nvidia.yaml
            kind:
              description: Vendor and class.
              type: str
              sample: nvidia.com/gpu
            devices:
              description: Names of its devices.
              type: list
              elements: str
              sample: ["0", GPU-00000000-1111-2222-3333-444444444444, all]
            driver_version:
              description: The version of the libraries that it mounts. Null if it mounts none.
              type: str
              sample: 580.159.04
            stale:
              description:
                - Whether that is another version than the installed driver's, or there is no driver.
                - Also whether MIG partitions have come or gone since, where the kind is C(nvidia.com/gpu).
              type: bool
              sample: false
        stale:
          description: Whether one of them is.
          type: bool
          sample: false
    users:
      description: Processes that have a GPU's device file open, one entry for each process and device.
      type: list
      elements: dict
      contains:
        pid:
          description: Its number on the host.
          type: int
          sample: 48211
        command:
          description: The kernel's name of it, at most 15 characters. Arguments may be secret and are not read.
          type: str
          sample: python3
        pod_uid:
          description:
            - The pod's C(metadata.uid), or for a static pod the hash that the kubelet gave it. Null outside of pods.
          type: str
          sample: 4d4cd5ae-6f4f-4c7c-9c86-40d0b1e1a0bb
        container_id:
          description: The container. Null outside of containers.
          type: str
          sample: 5a3c1f0e9b7d24684c1d8fd8e2a04bb8a9b2f0f4b3f9c1d2e3f4a5b6c7d8e9f0
        device:
          description: The device file.
          type: str
          sample: /dev/nvidia0
    managers:
      description: Who else manages the driver or the toolkit here.
      type: list
      elements: dict
      contains:
        name:
          description:
            - V(dgx_os), V(gpu_operator), V(ack) for Alibaba Cloud's managed Kubernetes, V(runfile) for NVIDIA's
              installer.
          type: str
          sample: runfile
        evidence:
          description: Where it shows.
          type: str
          sample: /usr/bin/nvidia-uninstall
    problems:
      description: What could not be read, or contradicts itself. Empty for a host in order.
      type: list
      elements: dict
      contains:
        what:
          description: The file, program or part.
          type: str
          sample: /etc/containerd/config.toml
        why:
          description: The reason.
          type: str
          sample: Permission denied
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpuops.nim.plugins.module_utils._host import facts


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "gather": {"type": "list", "elements": "str", "choices": list(facts.PARTS), "default": list(facts.PARTS)},
        },
        supports_check_mode=True,
    )
    root = os.path.realpath(module.params["root"])
    if not os.path.isdir(root):
        module.fail_json(msg=f"root: {root} is no folder.")
    module.exit_json(changed=False, gpu_host=facts.gather(root, module.params["gather"]))


if __name__ == "__main__":
    main()
