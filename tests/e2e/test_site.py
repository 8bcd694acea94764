# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml and teardown.yml as users run them."""

from __future__ import annotations

import pytest
import yaml

from rehearsal.layout import Layout
from rehearsal.standins import ngc
from rehearsal.standins.ngc import KEYS

KEY = KEYS["valid"]
NAMESPACE = ("-e", "nim_predictor_namespace=e2e")
OPEN = "nim/meta/llama3-8b-instruct"
LAYOUT = Layout.from_environment()
NOWHERE = ("-e", "nim_kubeconfig=/nonexistent/kubeconfig")


def site(run, *args, key=KEY, **more):
    env = {"NGC_API_KEY": key} if key is not None else {}
    return run("ansible-playbook", "site.yml", *NAMESPACE, *args, env=env, **more)


def teardown(run, *args):
    return run("ansible-playbook", "playbooks/teardown.yml", *NAMESPACE, *args)


@pytest.fixture(scope="module")
def deployed(run):
    try:
        yield site(run)
    finally:
        teardown(run, "-e", "teardown_cache=true")


def summary(done):
    return done.stdout[done.stdout.index("TASK [Summary]") :]


@pytest.mark.parametrize(
    ("key", "args", "says"),
    [
        (None, (), "No NGC API key was given"),
        ("", (), "No NGC API key was given"),
        (KEY, ("-e", "ngc_api_key="), "No NGC API key was given"),
        (KEY, ("-e", "ngc_api_key_prompt=true"), "No NGC API key was given"),
        ("<your key>", (), "ngc_api_key"),
        ("changeme", (), "ngc_api_key"),
    ],
    ids=["missing", "empty", "empty variable wins", "nobody to ask", "placeholder", "word"],
)
def test_no_usable_key_is_refused_before_the_cluster_is_asked(run, key, args, says):
    done = site(run, *args, *NOWHERE, key=key, rc=2)
    assert says in done.stdout + done.stderr
    assert "kubeconfig" not in done.stdout + done.stderr


def test_the_key_may_come_from_a_file(run, tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "vars.yml").write_text(f"ngc_api_key: {KEY}\n")
    for source in (f"ngc_api_key_file={tmp_path}/key", f"@{tmp_path}/vars.yml"):
        done = site(run, "--tags", "key", "-e", source, key=None)
        assert KEY not in done.stdout + done.stderr


@pytest.mark.rehearsal
def test_a_second_run_changes_nothing(run, deployed):
    assert "changed=0" in site(run).stdout


@pytest.mark.matrix
@pytest.mark.rehearsal
def test_the_summary_has_what_a_user_needs_next(deployed):
    for part in (
        "curl -s http://127.0.0.1:18080/v1/chat/completions -H 'Host: llama3-8b-instruct-e2e.example.com'",
        '"model": "meta/llama3-8b-instruct"',
        "question: In one sentence, what is a Kubernetes operator?",
        "You said: In one sentence, what is a Kubernetes operator?",
        "created: llama3-8b-instruct in namespace e2e",
        "ready ",
        "services ",
        "open to everyone who reaches it",
    ):
        assert part in summary(deployed)


@pytest.mark.rehearsal
def test_the_curl_line_works_as_it_is_printed(run, deployed):
    line = next(line.strip() for line in summary(deployed).splitlines() if line.strip().startswith("curl "))
    assert '"choices"' in run("bash", "-c", line).stdout


@pytest.mark.matrix
@pytest.mark.rehearsal
def test_check_mode_changes_nothing(run, deployed):
    assert "changed=0" in site(run, "--check", "--diff").stdout
    would = site(run, "--check", "--diff", "-e", '{"nim_predictor_service_defaults": {"cpu": "200m"}}')
    assert "changed: llama3-8b-instruct in namespace e2e" in summary(would)
    assert "changed=0" in site(run).stdout


@pytest.fixture
def claim(folders):
    """Asks the API server for the uid of the claim with the models; None when there is none."""
    from kubernetes import client, config

    with config.new_client_from_config(f"{folders['GPUOPS_NIM_STATE']}/kubeconfig") as api:

        def uid():
            claims = client.CoreV1Api(api).list_namespaced_persistent_volume_claim("e2e").items
            return next((c.metadata.uid for c in claims if c.metadata.name == "nim-model"), None)

        yield uid


@pytest.mark.rehearsal
def test_teardown_keeps_the_models_unless_told_otherwise_and_what_others_use(run, deployed, claim, tmp_path):
    before = claim()
    assert before is not None
    spec = {"nodeSelector": {"no": "node"}, "imagePullSecrets": [{"name": "ngc-secret"}]}
    spec["containers"] = [{"name": "a", "image": "a"}]
    theirs = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "theirs", "namespace": "e2e"}, "spec": spec}
    others = {"hosts": "localhost", "gather_facts": False}
    others["tasks"] = [{"gpuops.nim.kube_apply": {"objects": [theirs], "state": "{{ state }}"}}]
    (tmp_path / "others.yml").write_text(yaml.safe_dump([others]))
    cluster = {"K8S_AUTH_KUBECONFIG": str(LAYOUT.kubeconfig)}
    run("ansible-playbook", tmp_path / "others.yml", "-e", "state=present", env=cluster)
    for mode in (["--check"], []):
        kept = teardown(run, *mode)
        assert "changed=2" in kept.stdout
        assert "ngc-secretstays,usedbypodtheirs." in "".join((kept.stdout + kept.stderr).split())  # a line is wrapped
    run("ansible-playbook", tmp_path / "others.yml", "-e", "state=absent", env=cluster)
    assert "changed=1" in teardown(run).stdout
    assert "changed=0" in teardown(run).stdout
    assert claim() == before
    teardown(run, "-e", "teardown_cache=true")
    assert claim() is None


@pytest.mark.rehearsal
def test_an_image_that_needs_no_key_is_served_without_one(run, tmp_path):
    service = {"name": "open", "image": f"nvcr.io/{OPEN}:1.0.3", "image_pull_policy": "Always"}
    service |= {"image_pull_secrets": [], "env_from_secret": {}}
    (tmp_path / "vars.yml").write_text(yaml.safe_dump({"nim_predictor_services": [service]}))
    with ngc.editing(LAYOUT.ngc_state) as state:
        state.public.append(OPEN)
    try:
        done = site(run, "-e", "nim_predictor_namespace=e2e-open", "-e", f"@{tmp_path}/vars.yml", key=None)
        assert "open in namespace e2e-open: ready" in summary(done)
        assert "answered after" in summary(done)
        assert "Secret" not in summary(done)
    finally:
        with ngc.editing(LAYOUT.ngc_state) as state:
            state.public.remove(OPEN)
        teardown(run, "-e", "nim_predictor_namespace=e2e-open", "-e", f"@{tmp_path}/vars.yml")
