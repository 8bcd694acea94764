# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTML report in a real browser: wide and narrow, light and dark, without a request, trusting nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import datetime, timezone

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings, states, timeline
from ansible_collections.gpuops.nim.plugins.module_utils._ops.inspect import Inspected
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

WIDTHS = (1280, 400)
PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
SWITCHES = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)
NOW = datetime(2026, 11, 22, 17, 6, tzinfo=timezone.utc)
EVIL = "<script>document.title = 'taken'</script><img src=http://192.0.2.1/x> \" ' & {{ 1 + 1 }} {% raw %}"
LONG = "aNameWithoutAPlaceToBreakIt" * 8
ISVC = scene.wanted()
REFUSED = (
    'Back-off pulling image "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0": ErrImagePull: failed to authorize: failed to '
    "fetch oauth token: unexpected status from GET request to https://nvcr.io/proxy_auth?scope=repository%3Anim%2Fmeta"
    "%2Fllama3-8b-instruct%3Apull&service=registry: 401 Unauthorized"
)


def event(pod, reason, at):
    involved = {"uid": pod["metadata"]["uid"], "fieldPath": "spec.containers{kserve-container}"}
    stamp = f"2026-11-22T17:{at}Z"
    return {"involvedObject": involved, "reason": reason, "firstTimestamp": stamp, "lastTimestamp": stamp}


def service(name, *pods, events=(), revision=1, state="ready", detail="", found=(), **more):
    """What the module says of a service with these pods."""
    sets = [scene.replicaset(number) for number in range(1, revision + 1)]
    seen = states.Observed(scene.live_isvc(ISVC), scene.deployment(ISVC, revision), sets, list(pods), list(events))
    rows = tuple(timeline.of(seen))
    told = tuple(findings.find(seen)) + tuple(found)
    known = {"kind": "InferenceService", "managed_by": "gpuops.nim", "image": scene.IMAGE, **more}
    known |= {"namespace": "nim", "name": name, "state": state, "detail": detail, "ready": state == "ready"}
    inspected = Inspected(timeline=rows, findings=told, **known)
    return inspected.data(NOW)


def pulled(pod):
    return [event(pod, "Pulling", "00:03"), event(pod, "Pulled", "00:52"), event(pod, "Started", "00:55")]


@pytest.fixture(scope="module")
def result():
    """What the module would say of services in all conditions."""
    well = scene.ready_pod(ISVC)
    well["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = "2026-11-22T17:00:55Z"
    refused = scene.pod(ISVC, state=scene.waiting("ImagePullBackOff", REFUSED))
    ended = {
        "exitCode": 1,
        "reason": "Error",
        "startedAt": "2026-11-22T17:00:55Z",
        "finishedAt": "2026-11-22T17:03:00Z",
    }
    crashing = scene.pod(ISVC, state=scene.waiting("CrashLoopBackOff"), lastState={"terminated": ended}, restartCount=4)
    waiting = scene.pending_pod(ISVC, 2, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    odd = findings.Finding("rule", "case", EVIL, (EVIL, LONG), f"do `{EVIL}`", True, severity="warning")
    services = [
        service(
            "refused", refused, events=[event(refused, "Pulling", "00:03")], state="pulling", detail="ImagePullBackOff"
        ),
        service("crashing", crashing, events=pulled(crashing), state="starting", detail="CrashLoopBackOff"),
        service("update", waiting, scene.ready_pod(ISVC, 1), revision=2, state="scheduling", detail="no free GPU"),
        service(LONG[:60], well, events=pulled(well), detail=EVIL, found=[odd], managed_by=EVIL, image=LONG, url=EVIL),
        service("well", well, events=pulled(well), detail="1 of 1 pods are ready", url="http://well.example.com"),
        service("nothing", state="scheduling", detail="KServe has not made the Deployment yet"),
    ]
    return {
        "services": services,
        "worst": "error",
        "not_looked_at": [f"Node objects: no right to list them {EVIL}"],
        "looked_at": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": 0.05,
    }


@pytest.fixture(scope="module")
def report(run, root, result, tmp_path_factory):
    """The file that diagnose.yml would write of it."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "result.json").write_text(json.dumps(result))
    template = {"src": str(root / "playbooks/templates/diagnosis.html.j2"), "dest": str(folder / "report.html")}
    # read as a module's result is: nothing in it is a template
    read = "{{ lookup('ansible.builtin.file', '%s') | from_json }}" % (folder / "result.json")
    task = {"ansible.builtin.template": template, "vars": {"diagnose_result": read}}
    python = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    play = [{"hosts": "localhost", "gather_facts": False, "vars": python, "tasks": [task]}]
    (folder / "play.yml").write_text(yaml.safe_dump(play))
    run("ansible-playbook", "-i", "localhost,", "-c", "local", folder / "play.yml")
    return folder / "report.html"


@pytest.fixture(scope="module")
def programs():
    """The browser and its driver, installed where they are missing."""
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        if subprocess.run(install, env=environment, capture_output=True).returncode:
            subprocess.run(["apt-get", "update"], env=environment, check=True, capture_output=True)
            subprocess.run(install, env=environment, check=True, capture_output=True)
    return {program: shutil.which(program) for program in PACKAGES}


@pytest.fixture(scope="module")
def browser(programs, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for switch in SWITCHES:
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture(params=[(width, scheme) for scheme in ("light", "dark") for width in WIDTHS], ids=str)
def page(request, browser, report):
    """The report in a window of that width and those colours, and what was asked for to show it."""
    width, scheme = request.param
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("performance")
    browser.get(report.as_uri())
    return browser


def requests_of(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [each["request"]["url"] for each in sent]


def test_nothing_is_asked_for_but_the_file(page, report):
    assert [url for url in requests_of(page) if not url.startswith("data:")] == [report.as_uri()]
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_nothing_sticks_out_of_the_window(page):
    width = page.execute_script("return document.documentElement.clientWidth")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    outside = page.execute_script(
        """
        return [...document.querySelectorAll('body, body *:not(svg *)')]
          .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
          .map(each => each.outerHTML.slice(0, 120));
        """
    )
    assert outside == []


def test_what_was_seen_is_shown_as_text_and_never_as_a_page(page):
    text = page.find_element(By.TAG_NAME, "body").text
    assert "document.title = 'taken'" in text
    assert "{{ 1 + 1 }}" in text
    assert page.title.startswith("NIM services")
    assert page.find_elements(By.CSS_SELECTOR, "img, script, iframe, object, form") == []


def test_every_finding_says_what_why_and_what_to_do(page, result):
    text = page.find_element(By.TAG_NAME, "body").text
    for each in result["services"]:
        assert f"{each['namespace']}/{each['name']}" in text
        for finding in each["findings"]:
            assert finding["cause"].replace("`", "") in text
            assert finding["confidence"] in text
    codes = [code.text for code in page.find_elements(By.CSS_SELECTOR, ".do code")]
    assert any("ansible-playbook" in code for code in codes)


def test_each_timeline_is_a_picture_that_can_be_read_out(page, result):
    pictures = page.find_elements(By.CSS_SELECTOR, "figure > svg[role=img]")
    labels = [picture.get_attribute("aria-label") for picture in pictures]
    assert len(pictures) == sum(bool(each["timeline"]) for each in result["services"])
    (refused,) = [label for label in labels if "nim/refused" in label]
    assert "pulling" in refused
    assert "stopped here" in refused
    (crashing,) = [picture for picture in pictures if "nim/crashing" in picture.get_attribute("aria-label")]
    assert crashing.find_elements(By.CSS_SELECTOR, "rect.stuck")
    assert crashing.find_elements(By.CSS_SELECTOR, "path.restart")
    for bar in page.find_elements(By.CSS_SELECTOR, "figure rect"):
        assert bar.size["width"] >= 1


def test_the_words_stand_out_from_what_is_behind_them(page):
    """WCAG 2's measure for small text; 3 for bars."""
    weak = page.execute_script(CONTRAST)
    assert weak == []


CONTRAST = """
const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * x + .7152 * y + .0722 * z;
};
const behind = element => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) return colour;
  }
  return [255, 255, 255, 1];
};
const ratio = (one, other) => {
  const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
  return (a + .05) / (b + .05);
};
const weak = [];
for (const element of document.querySelectorAll('body *')) {
  const style = getComputedStyle(element), drawn = element.closest('svg');
  const words = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  if (drawn && ['rect', 'path'].includes(element.tagName)) {
    if (ratio(rgba(style.fill), behind(drawn)) < 3) weak.push(element.outerHTML.slice(0, 80));
  } else if (words && element.tagName !== 'title') {
    const colour = rgba(drawn ? style.fill : style.color);
    if (ratio(colour, behind(drawn || element)) < 4.5) weak.push(element.outerHTML.slice(0, 80));
  }
}
return weak;
"""
