# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


def managers(tree):
    return {entry["name"]: entry["evidence"] for entry in tree.facts("managers")["managers"]}


def test_nobody(tree):
    tree.system("debian-12")
    tree.folder("/run/nvidia-persistenced")
    tree.file("/run/nvidia/mps/control")
    tree.file("/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", "Environment=KUBELET_EXTRA_ARGS=--v=2\n")
    assert managers(tree) == {}


def test_dgx_os(tree):
    tree.system("ubuntu-24.04")
    tree.file("/etc/dgx-release", 'DGX_NAME="DGX Server"\nDGX_SWBUILD_VERSION="7.2.3"\n')
    assert managers(tree) == {"dgx_os": "/etc/dgx-release"}


def test_gpu_operator(tree):
    tree.file("/run/nvidia/validations/driver-ready")
    tree.file("/usr/local/nvidia/toolkit/nvidia-container-runtime")
    evidence = "/run/nvidia/validations/driver-ready, /usr/local/nvidia/toolkit/nvidia-container-runtime"
    assert managers(tree) == {"gpu_operator": evidence}


def test_ack_by_its_file_of_kubelet_options(tree):
    tree.file("/etc/kubernetes/kubelet-customized-args.conf", 'KUBELET_CUSTOMIZED_ARGS=""\n')
    assert managers(tree) == {"ack": "/etc/kubernetes/kubelet-customized-args.conf"}


def test_ack_by_the_kubelets_labels(tree):
    unit = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
    tree.file(unit, 'Environment="KUBELET_ARGS=--node-labels=alibabacloud.com/nodepool-id=np0,ack.aliyun.com=c0"\n')
    assert managers(tree) == {"ack": f"alibabacloud.com/nodepool-id= in {unit}"}


def test_several(tree):
    tree.file("/etc/dgx-release")
    tree.file("/usr/bin/nvidia-uninstall")
    assert set(managers(tree)) == {"dgx_os", "runfile"}
