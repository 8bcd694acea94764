# SPDX-License-Identifier: GPL-3.0-or-later
"""diagnose.yml as users run it: all is well, a key that is revoked after the deployment, and what scripts get."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from ansible_collections.gpuops.nim.tests.e2e.test_leak import holds
from rehearsal import cluster, toolchain
from rehearsal.layout import Layout
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

NAMESPACE = "inspect-e2e"
NAME = "llama3-8b-instruct"
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0}


@pytest.fixture(scope="module")
def diagnose(run, folders):
    """`diagnose("-e", "...", rc=0)`: of the test's namespace unless told otherwise."""

    def diagnose(*arguments, namespace=NAMESPACE, rc=0):
        where = ("-e", f"diagnose_namespaces={namespace}")
        return run("ansible-playbook", "playbooks/diagnose.yml", *where, *arguments, rc=rc, env=folders)

    return diagnose


@pytest.fixture(scope="module")
def kubectl(run):
    layout = Layout.from_environment()
    command = cluster.kubectl_command(layout, toolchain.ready(layout))
    return lambda *arguments: run(*command, *arguments).stdout


@pytest.fixture(scope="module")
def keys(run, tmp_path_factory):
    """`keys("expired")`: puts that key into both Secrets."""
    playbook = tmp_path_factory.mktemp("keys") / "keys.yml"
    secret = {"namespace": NAMESPACE, "create_namespace": True}
    auth = {"K8S_AUTH_KUBECONFIG": str(Layout.from_environment().kubeconfig)}
    tasks = [{"gpuops.nim.nim_secret": secret}]
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    return lambda kind: run("ansible-playbook", playbook, env={**auth, "NGC_API_KEY": KEYS[kind]})


@pytest.fixture(scope="module")
def deployed(run, kubectl, keys, tmp_path_factory):
    """A service whose image is asked for at each start of a pod, as with a new tag or on a new node."""
    service = {"name": NAME, "namespace": NAMESPACE, "image": f"nvcr.io/nim/meta/{NAME}:1.0.0", **SMALL}
    task = {"gpuops.nim.nim_kserve": {**service, "image_pull_policy": "Always", "wait_timeout": 120}}
    playbook = tmp_path_factory.mktemp("deployed") / "deploy.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    try:
        keys("valid")
        run("ansible-playbook", playbook, env={"K8S_AUTH_KUBECONFIG": str(Layout.from_environment().kubeconfig)})
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def revoked(deployed, keys, kubectl, diagnose):
    """The key is dead, and the pod had to be renewed; `diagnose` has said so. With the seconds that took."""
    keys("expired")
    kubectl("delete", "pod", "-n", NAMESPACE, "-l", f"serving.kserve.io/inferenceservice={NAME}", "--wait=false")
    begun = time.monotonic()
    while time.monotonic() - begun < 200:
        done = diagnose(rc=None)
        if done.returncode:
            print(f"a revoked key was named {time.monotonic() - begun:.1f} s after its pod went")
            return done
    pytest.fail("a dead key was not named within a minute")


def told(done):
    return done.stdout[done.stdout.index("TASK [Diagnosis]") :]


# -- in this order: the key is good, then it is not


@pytest.mark.usefixtures("deployed")
def test_a_namespace_that_is_well_takes_a_line_for_each_service_and_little_time(diagnose):
    begun = time.monotonic()
    done = diagnose()
    print(f"a look at a namespace that is well: {time.monotonic() - begun:.1f} s, Ansible's own start included")
    assert f"well: {NAMESPACE}/{NAME}: 1 of 1 pods are ready" in told(done)
    assert "1 service: 0 with errors, 0 with warnings, 1 without findings" in told(done)


def test_a_key_that_was_revoked_is_named_with_what_was_seen_and_what_to_do(revoked):
    assert revoked.returncode == 2
    for part in (
        f"ERROR: {NAMESPACE}/{NAME} is pulling",
        "what: the registry refuses the key: it is wrong, expired or revoked",
        "401 Unauthorized",
        "gpuops.nim.rotate_key",
        "1 service: 1 with errors",
    ):
        assert part in told(revoked)


@pytest.mark.usefixtures("revoked")
@pytest.mark.parametrize(("fail_on", "rc"), [("error", 2), ("warning", 2), ("never", 0)])
def test_the_exit_status_is_what_the_script_asked_for(diagnose, fail_on, rc):
    assert f"ERROR: {NAMESPACE}/{NAME}" in told(diagnose("-e", f"diagnose_fail_on={fail_on}", rc=rc))


@pytest.mark.usefixtures("revoked")
def test_json_has_it_all_for_machines(diagnose, tmp_path):
    diagnose("-e", f"diagnose_json={tmp_path}/all.json", rc=2)
    result = json.loads((tmp_path / "all.json").read_text())
    (service,) = result["services"]
    assert (service["name"], result["worst"], service["timeline"][0]["stopped_at"]) == (NAME, "error", "pulling")
    assert service["findings"][0]["id"] == "image-pull-refused"


@pytest.mark.usefixtures("revoked")
def test_the_report_names_the_cause(diagnose, tmp_path):
    diagnose("-e", f"diagnose_report={tmp_path}/report.html", "-e", "diagnose_fail_on=never")
    page = (tmp_path / "report.html").read_text()
    for part in (f"{NAMESPACE}/{NAME}", "the registry refuses the key", "stopped here", "<svg", "</html>"):
        assert part in page


@pytest.mark.usefixtures("revoked")
def test_check_mode_looks_and_writes_no_file(diagnose, tmp_path):
    files = ("-e", f"diagnose_report={tmp_path}/report.html", "-e", f"diagnose_json={tmp_path}/all.json")
    assert "refuses the key" in told(diagnose("--check", *files, rc=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.leak
@pytest.mark.usefixtures("revoked")
def test_the_key_is_asked_about_and_shown_nowhere(diagnose, tmp_path):
    files = ("-e", f"diagnose_report={tmp_path}/report.html", "-e", f"diagnose_json={tmp_path}/all.json")
    done = diagnose("-e", "diagnose_check_key=true", "-vvvv", "--diff", *files, rc=2)
    (service,) = json.loads((tmp_path / "all.json").read_text())["services"]
    assert service["verdict"]["verdict"] in ("invalid", "expired")
    assert [evidence for evidence in service["verdict"]["evidence"] if evidence["status"] == 401]
    shown = [done.stdout.encode(), done.stderr.encode(), *(path.read_bytes() for path in tmp_path.iterdir())]
    assert len(shown) == 4
    for text in shown:
        assert not holds(text, KEYS["expired"])


@pytest.mark.usefixtures("revoked")
def test_a_new_key_is_asked_about_before_a_pod_needs_it(diagnose, keys, tmp_path):
    """The verdict alone, without a pod that has tried: the key is good again, the pod still in its pause."""
    keys("valid")
    files = ("-e", f"diagnose_json={tmp_path}/all.json", "-e", "diagnose_fail_on=never")
    diagnose("-e", "diagnose_check_key=true", *files)
    (service,) = json.loads((tmp_path / "all.json").read_text())["services"]
    assert service["verdict"]["verdict"] == "valid"


# -- what can't be done


def test_a_service_that_is_not_there_is_an_error_for_scripts(diagnose, deployed):
    done = diagnose("-e", "diagnose_services=llama3-8b-instrct", rc=2)
    assert f"did you mean {NAME}?" in told(done)


def test_a_wrong_severity_is_refused_at_once(diagnose):
    done = diagnose("-e", "diagnose_fail_on=sometimes", rc=2)
    assert "diagnose_fail_on: 'sometimes' is none of error, warning and never." in done.stdout
    assert "TASK [Look]" not in done.stdout


def test_a_cluster_that_can_not_be_reached_is_said(diagnose):
    done = diagnose("-e", "nim_kubeconfig=/nonexistent/kubeconfig", rc=2)
    assert "/nonexistent/kubeconfig" in done.stdout
    assert "TASK [Diagnosis]" not in done.stdout
