# SPDX-License-Identifier: GPL-3.0-or-later
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
# without bytecode every start of Ansible compiles it all again
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
LINK := collections/ansible_collections/gpuops/nim
USES := requirements.txt requirements-rehearsal.txt
TESTS := $(USES) requirements-test.txt
# stamps carry what they installed in their names: changed requirements install again, a second run does not
stamp = $(VENV)/.installed-$(shell cat $(1) | cksum | cut -d' ' -f1)
READY := $(call stamp,$(USES))
TEST_READY := $(call stamp,$(TESTS))

PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# The rehearsal's own key, whatever the environment holds: a real one has no business with a stand-in. Others to try, as
# `make rehearse NGC_API_KEY=...`: the same with expired, unentitled, denied or blocked in place of valid.
NGC_API_KEY := nvapi-rehearsal-valid-0123456789abcdefghijklmnopqrstuvwxyz
export NGC_API_KEY

.PHONY: help rehearse up down venv test lint unit sanity docs build integration e2e molecule leak matrix slow bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

rehearse: up ## from nothing to a model's answer on a cluster of this machine; NGC_API_KEY=... tries another key
	$(BIN)/ansible-playbook site.yml

up: $(READY) ## build and start the rehearsal cluster
	$(BIN)/python -m rehearsal up

down: $(READY) ## stop the rehearsal cluster
	$(BIN)/python -m rehearsal down

test: $(TEST_READY) ## install what the tests need and run all of them; leaves the rehearsal cluster up
	$(BIN)/python -m rehearsal up
	$(BIN)/python -m pytest

lint: $(TEST_READY) ## ruff, mypy, yamllint, ansible-lint
	$(BIN)/python -m pytest tests/sanity/test_lint.py

unit: $(TEST_READY) ## tests that need no cluster
	$(BIN)/python -m pytest tests/unit

sanity: $(TEST_READY) ## ansible-test sanity
	$(BIN)/python -m pytest tests/sanity/test_ansible_test.py

docs: $(TEST_READY) ## check the documentation and render it into build/docs
	$(BIN)/python -m pytest tests/sanity/test_docs.py

build: $(TEST_READY) ## the collection as it would be published, in build/
	$(BIN)/ansible-galaxy collection build --force --output-path build

integration: $(TEST_READY) up ## modules on the rehearsal cluster
	$(BIN)/python -m pytest tests/integration

e2e: $(TEST_READY) up ## playbooks on the rehearsal cluster
	$(BIN)/python -m pytest tests/e2e

molecule: $(TEST_READY) up ## the role's scenario
	$(BIN)/python -m pytest tests/e2e/test_molecule.py

slow: $(TEST_READY) up ## what the tests leave out: more releases of ansible-core, a driver that DKMS compiles, KServe with cert-manager, the device plugin by Helm, the benchmark in short
	$(BIN)/python -m pytest -m slow

leak: $(TEST_READY) up ## traces of a key in anything that a run writes
	$(BIN)/python -m pytest -m leak

matrix: $(TEST_READY) ## the same with other releases of ansible-core, kubernetes and Python
	$(BIN)/python -m pytest tests/matrix -m "slow or not slow"

bench: $(TEST_READY) up ## the collection beside kubernetes.core and kubectl; about half an hour, alone on the machine
	PYTHONPATH=collections $(BIN)/python -m tests.bench

venv: $(TEST_READY) ## all of what development needs

$(READY): $(USES) | $(BIN)/python $(LINK)
	$(BIN)/pip install --quiet $(USES:%=--requirement %)
	touch $@

$(TEST_READY): $(TESTS) | $(READY)
	$(BIN)/pip install --quiet $(TESTS:%=--requirement %)
	touch $@

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed; none of python3, python3.11 ... python3.13 is."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) python3-venv
	$(PYTHON) -m venv $(VENV)

# Debian and Ubuntu keep it in a package of its own
.PHONY: python3-venv
python3-venv:
	@package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package"; \
	else \
		echo "$(PYTHON) cannot make a venv: install $$package, or run this as root."; exit 1; \
	fi

# Ansible finds a collection's own roles only under its full name
$(LINK):
	mkdir -p $(dir $@)
	ln -sfn ../../.. $@
