# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "systems" / "containerd"
CONFIG = "/etc/containerd/config.toml"
DROP_IN = "/etc/containerd/conf.d/99-nvidia.toml"
UNIT = "/etc/systemd/system/containerd.service"
BR_NETFILTER = "/etc/modules-load.d/kubespray-br_netfilter.conf"
K3S = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
IMPORTS = 'imports = ["/etc/containerd/conf.d/*.toml"]'


def recorded(name):
    return (RECORDED / f"{name}.toml").read_text()


def containerd(tree, version=None):
    if version:
        tree.file("/usr/bin/containerd")
        tree.dpkg({"containerd.io": version})
    found = tree.facts("runtimes")["runtimes"]
    assert [runtime["name"] for runtime in found] == ["containerd"]
    return found[0]


@pytest.fixture
def nvidia(tree):
    tree.file("/usr/bin/nvidia-container-runtime")


def test_no_runtime(tree):
    tree.folder("/etc")
    assert tree.facts("runtimes") == {"runtimes": [], "problems": []}


def test_version_2_plain(tree):
    tree.file(CONFIG, recorded("v2"))
    assert containerd(tree, "1.7.24-1") == {
        "name": "containerd",
        "flavour": "plain",
        "version": "1.7.24",
        "config": CONFIG,
        "config_version": 2,
        "default_runtime": "runc",
        "nvidia_handler": False,
        "cdi": False,
        "systemd_cgroup": True,
        "imports": [],
        "problems": [],
    }


def test_version_2_with_the_toolkits_drop_in(tree, nvidia):
    tree.file(CONFIG, recorded("v2").replace("imports = []", IMPORTS))
    tree.file(DROP_IN, recorded("v2-nvidia"))
    found = containerd(tree, "1.7.24-1")
    assert (found["nvidia_handler"], found["default_runtime"], found["cdi"]) == (True, "nvidia", True)
    assert found["imports"] == ["/etc/containerd/conf.d/*.toml"]
    assert found["problems"] == []


def test_version_3_with_the_toolkits_drop_in(tree, nvidia):
    tree.file(CONFIG, recorded("v3"))
    tree.file(DROP_IN, recorded("v3-nvidia"))
    found = containerd(tree, "2.1.5-1")
    assert (found["config_version"], found["nvidia_handler"], found["default_runtime"]) == (3, True, "runc")
    assert (found["cdi"], found["systemd_cgroup"], found["problems"]) == (True, True, [])


def test_before_2_0_a_drop_in_replaces_the_plugins_whole_table(tree, nvidia):
    tree.file(
        CONFIG, recorded("v2").replace("imports = []", IMPORTS).replace("enable_cdi = false", "enable_cdi = true")
    )
    name = 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia'
    tree.file(DROP_IN, f'version = 2\n[{name}]\nruntime_type = "io.containerd.runc.v2"\n')
    old = containerd(tree, "1.7.24-1")
    assert (old["nvidia_handler"], old["cdi"], old["systemd_cgroup"]) == (True, False, False)


def test_since_2_0_a_drop_in_is_merged(tree, nvidia):
    tree.file(CONFIG, recorded("v3"))
    name = 'plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia'
    tree.file(DROP_IN, f'version = 3\n[{name}]\nruntime_type = "io.containerd.runc.v2"\n')
    new = containerd(tree, "2.1.5-1")
    assert (new["nvidia_handler"], new["cdi"], new["systemd_cgroup"]) == (True, True, True)
    assert new["problems"] == ["SystemdCgroup of the handler nvidia is not that of runc."]


def test_a_drop_in_that_no_file_imports(tree, nvidia):
    tree.file(CONFIG, recorded("v2"))
    tree.file(DROP_IN, recorded("v2-nvidia"))
    found = containerd(tree, "1.7.24-1")
    assert found["nvidia_handler"] is False
    assert found["problems"] == [f"{DROP_IN} is not read: no file imports it."]


def test_a_drop_in_without_a_configuration(tree):
    tree.file(DROP_IN, recorded("v2-nvidia"))
    found = containerd(tree, "1.7.24-1")
    assert (found["config"], found["default_runtime"], found["nvidia_handler"]) == (None, "runc", False)
    assert found["problems"] == [f"{DROP_IN} is not read: no {CONFIG} imports it."]


def test_dockers_configuration(tree):
    tree.file(CONFIG, recorded("docker"))
    found = containerd(tree, "1.7.24-1")
    assert found["config_version"] is None
    assert any("has no version" in problem for problem in found["problems"])
    assert any("CRI plugin is disabled" in problem for problem in found["problems"])


def test_a_drop_in_of_another_version(tree, nvidia):
    tree.file(CONFIG, recorded("v2").replace("imports = []", IMPORTS))
    tree.file(DROP_IN, recorded("v3-nvidia"))
    assert any("different versions" in problem for problem in containerd(tree, "2.0.5-1")["problems"])


def test_files_of_two_versions_since_2_3(tree, nvidia):
    tree.file(CONFIG, recorded("v3"))
    tree.file(DROP_IN, recorded("v2-nvidia"))
    found = containerd(tree, "2.3.4-1")
    assert (found["default_runtime"], found["nvidia_handler"], found["problems"]) == ("nvidia", True, [])


def test_version_3_is_nothing_for_containerd_1(tree):
    tree.file(CONFIG, recorded("v3"))
    problems = containerd(tree, "1.7.24-1")["problems"]
    assert problems == ["containerd 1.7.24 can't read files of version 3: it does not start."]


@pytest.mark.parametrize(
    ("version", "told", "expected"),
    [
        ("1.6.20", True, False),
        ("1.7.24", None, False),
        ("1.7.24", True, True),
        ("2.0.5", None, True),
        ("2.0.5", False, False),
        ("2.4.2", False, True),
    ],
)
def test_cdi_by_release(tree, version, told, expected):
    option = "" if told is None else f"enable_cdi = {str(told).lower()}"
    tree.file(CONFIG, f'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n{option}\n')
    assert containerd(tree, f"{version}-1")["cdi"] is expected


def test_an_import_that_is_gone(tree):
    tree.file(CONFIG, recorded("v2").replace("imports = []", 'imports = ["/etc/containerd/gone.toml"]'))
    assert containerd(tree)["problems"] == [
        "/etc/containerd/gone.toml is imported and does not exist: containerd does not start."
    ]


def test_imports_of_imports_relative_and_round_in_a_circle(tree, nvidia):
    tree.file(CONFIG, recorded("v3").replace("'/etc/containerd/conf.d/*.toml'", "'more/one.toml'"))
    tree.file("/etc/containerd/more/one.toml", "version = 3\nimports = ['two.toml', '../config.toml']\n")
    tree.file("/etc/containerd/more/two.toml", recorded("v3-nvidia"))
    found = containerd(tree, "2.1.5-1")
    assert (found["nvidia_handler"], found["problems"]) == (True, [])


def test_a_handler_that_cannot_start(tree):
    text = recorded("v2-nvidia").replace('runtime_type = "io.containerd.runc.v2"', "", 1)
    tree.file(CONFIG, text)
    problems = containerd(tree)["problems"]
    assert "The handler nvidia has no runtime_type: its pods can't start." in problems
    assert "The handler nvidia starts /usr/bin/nvidia-container-runtime, which does not exist." in problems


def test_a_truncated_configuration(tree):
    tree.file(CONFIG, recorded("v2")[:700])
    found = containerd(tree, "1.7.24-1")
    assert (found["default_runtime"], found["systemd_cgroup"], found["nvidia_handler"]) == (None, None, False)
    assert found["version"] == "1.7.24"
    assert len(found["problems"]) == 1
    assert found["problems"][0].startswith(f"{CONFIG} can't be read")


def test_containerd_is_asked_where_its_file_cannot_be_read(tree, nvidia):
    tree.file("/usr/local/bin/containerd")
    tree.file(CONFIG, recorded("v2")[:700])
    tree.printed["/usr/local/bin/containerd --version"] = (
        "containerd github.com/containerd/containerd v1.7.27 05044ec\n"
    )
    tree.printed[f"/usr/local/bin/containerd --config {CONFIG} config dump"] = recorded("v2-nvidia")
    found = containerd(tree)
    assert (found["version"], found["nvidia_handler"], found["default_runtime"]) == ("1.7.27", True, "nvidia")


def test_k3s(tree, nvidia):
    tree.file(K3S, recorded("k3s"))
    found = containerd(tree)
    assert (found["flavour"], found["config"], found["config_version"]) == ("k3s", K3S, 3)
    assert (found["nvidia_handler"], found["cdi"], found["default_runtime"]) == (True, True, "runc")
    assert found["problems"] == []


def test_rke2_that_has_not_started_since_the_toolkit_came(tree, nvidia):
    text = recorded("k3s").split("[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.'nvidia']")[0]
    tree.file("/var/lib/rancher/rke2/agent/etc/containerd/config.toml", text)
    found = containerd(tree)
    assert (found["flavour"], found["nvidia_handler"]) == ("rke2", False)
    assert "when it starts" in found["problems"][0]


def test_k3s_beside_a_plain_one(tree):
    tree.file(CONFIG, recorded("docker"))
    tree.file(K3S, recorded("k3s"))
    assert [runtime["flavour"] for runtime in tree.facts("runtimes")["runtimes"]] == ["plain", "k3s"]


def test_microk8s(tree):
    tree.file("/var/snap/microk8s/current/args/containerd.toml", recorded("v2"))
    assert containerd(tree)["flavour"] == "microk8s"


# kubespray.toml is what Kubespray 2.31.0's template config.toml.j2 makes of its defaults, kubespray-nvidia.toml what it
# makes of them with the variables that the role container_toolkit tells; this is the end of its containerd.service.
def kubespray(tree, name):
    tree.file("/usr/local/bin/containerd")
    tree.printed["/usr/local/bin/containerd --version"] = "containerd github.com/containerd/containerd/v2 v2.2.3 0\n"
    tree.file("/etc/kubernetes/kubelet.env", 'KUBE_LOG_LEVEL="--v=2"\n')
    tree.file(BR_NETFILTER, "br_netfilter")
    tree.file(
        UNIT,
        "[Service]\nExecStart=/usr/local/bin/containerd\nTasksMax=infinity\nOOMScoreAdjust=-999\n"
        "# Set the cgroup slice of the service so that kube reserved takes effect\n\n[Install]\n",
    )
    tree.file(CONFIG, recorded(name))


def test_kubespray(tree, nvidia):
    kubespray(tree, "kubespray")
    found = containerd(tree)
    assert (found["flavour"], found["version"], found["config"]) == ("kubespray", "2.2.3", CONFIG)
    assert (found["config_version"], found["default_runtime"], found["nvidia_handler"]) == (3, "runc", False)
    assert (found["systemd_cgroup"], found["cdi"], found["problems"]) == (True, True, [])


def test_kubespray_that_has_the_handler_itself(tree, nvidia):
    kubespray(tree, "kubespray-nvidia")
    found = containerd(tree)
    assert (found["flavour"], found["nvidia_handler"], found["problems"]) == ("kubespray", True, [])


@pytest.mark.parametrize("gone", [UNIT, BR_NETFILTER])
def test_one_sign_of_kubespray_is_not_enough(tree, gone):
    """Others have copied its unit; with Docker or CRI-O it brings no containerd."""
    kubespray(tree, "kubespray")
    tree.path(gone).unlink()
    assert containerd(tree)["flavour"] == "plain"


def test_kubeadm_is_not_kubespray(tree):
    tree.file("/var/lib/kubelet/kubeadm-flags.env", 'KUBELET_KUBEADM_ARGS=""\n')
    tree.file("/etc/kubernetes/kubelet.conf")
    tree.file("/etc/modules-load.d/br_netfilter.conf", "br_netfilter\n")
    tree.file(UNIT, "[Service]\nExecStart=/usr/local/bin/containerd\nTasksMax=infinity\nOOMScoreAdjust=-999\n")
    tree.file(CONFIG, recorded("v2"))
    assert containerd(tree, "1.7.24-1")["flavour"] == "plain"


def test_options_as_kubespray_wrote_them_until_2_27(tree):
    tree.file(CONFIG, recorded("v2").replace("SystemdCgroup = true", "systemdCgroup = true"))
    assert containerd(tree, "1.7.24-1")["systemd_cgroup"] is True
