# A thin front: what is done stands in pyproject.toml, tox.ini and `kadstorm` itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help storm test lint bench clean lock

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

storm: $(VENV)/.installed ## set up, run the first storm, print the verdict and the report's path
	$(BIN)/kadstorm run chaos/experiments/first-storm.yaml

test: $(VENV)/.tox ## set up, run every check and test that this machine can run
	$(BIN)/tox run

lint: $(VENV)/.tox ## formatting, lint and types only
	$(BIN)/tox run -e lint,types

bench: $(VENV)/.bench ## time Kadstorm against its peers and against bare tools, both sides in one run; writes bench.json
	$(BIN)/python -m benchmarks --json bench.json

clean: ## remove what the set-up and the tests made (runs/ stays)
	rm -rf $(VENV) .tox build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(VENV)/.installed ## write constraints.txt anew from the newest versions that fit pyproject.toml
	$(BIN)/python -m venv --clear .lock && .lock/bin/pip install --quiet --editable '.[dev]'
	(echo "# Exact versions of everything that the set-up installs; 'make lock' writes this file anew." && \
	 .lock/bin/pip freeze --exclude-editable) > constraints.txt
	rm -rf .lock

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Kadstorm needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 …"; exit 3; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 3; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing Kadstorm into $(VENV) (about a minute, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

$(VENV)/.tox: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt tox tox-uv
	@touch $@
