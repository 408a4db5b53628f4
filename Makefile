# `make` lists what there is to do. Nothing has to be installed before but Python >= 3.11 with pip.
#   make run ARGS="--only chroma"     arguments for the command behind the target
#   make PYTHON=/opt/bin/python3.12   another interpreter than the one found on the path
#   make VENV=/tmp/venv test          another place for the virtual environment

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run run-production test lint format demo docs bench chaos torture screenshots clean

VENV ?= .venv
PYTHON ?=
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COVERAGE_MINIMUM := 95

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## *\(.*\)/make \1\t\2/p' Makefile | expand -t 24

run: $(VENV)/.for-run  ## start the backend and its four local services; Ctrl-C stops them
	$(BIN)/python -m backend $(ARGS)

run-production: $(VENV)/.for-run  ## the same with gunicorn: 4 workers that share circuits and status, 8 threads each
	$(BIN)/python -m backend --production $(ARGS)

demo: $(VENV)/.for-run  ## play an outage from first failure to recovery, with live output
	$(BIN)/python -m backend.demo $(ARGS)

# Each worker, and each of the hundreds of processes that tests start, would compile everything anew.
# A worker that dies is not replaced: with whole files dealt out, xdist can then wait for ever.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.for-work  ## run all tests; prints branch coverage of service_utils
	$(BIN)/python -m pytest -n $$($(BIN)/python -c 'import os; print(min(8, 1 + 2 * (os.cpu_count() or 1)))') --dist loadfile --no-loadscope-reorder --max-worker-restart=0 \
		--cov=service_utils --cov-branch --cov-fail-under=$(COVERAGE_MINIMUM) $(ARGS)

lint: $(VENV)/.for-work  ## check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.for-work  ## put the code into its form, repairing what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.for-work  ## check the pages (links, tables, snippets) and build them into build/docs
	$(BIN)/python -m pytest -q tests/test_docs.py $(wildcard tests/docs) $(ARGS)
	$(BIN)/python -m sphinx -W -n -q -b html -c docs . build/docs
	@echo 'The pages are in build/docs/docs/index.html'

bench: $(VENV)/.for-work  ## measure what a call costs; writes docs/performance.md
	$(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/.for-work  ## charge 10,000 times while the network breaks and processes are killed; CHAOS_SEED= repeats a run
	CHAOS_CHARGES=$${CHAOS_CHARGES:-10000} $(BIN)/python -m pytest -q -s -p no:logging tests/chaos $(ARGS)

torture: $(VENV)/.for-work  ## share circuits for a minute while processes are killed and files spoiled; TORTURE_SEED= repeats a run
	TORTURE_SECONDS=$${TORTURE_SECONDS:-60} $(BIN)/python -m pytest -q -s -p no:logging tests/torture $(ARGS)

screenshots: $(VENV)/.for-work  ## take the pictures of the status page in docs/img; needs chromium
	$(BIN)/python -m tests.browser.screenshots docs/img $(ARGS)

clean:  ## remove the virtual environment, caches and build output; keeps var/
	rm -rf $(VENV) .bench-venvs build dist *.egg-info htmlcov .coverage .coverage.* coverage.xml
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./var -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
	@[ ! -d var ] || echo "Kept var/: the data of your local services. Remove it by hand if you want to lose it."

# Two stamps: what runs the backend, and what works on it. Each is made again when the metadata change.
$(VENV)/.for-run: setup.cfg pyproject.toml $(BIN)/python
	@echo 'Installing what the backend needs'
	@$(PIP) install --editable '.[backend]'
	@touch $@

$(VENV)/.for-work: setup.cfg pyproject.toml $(BIN)/python
	@echo 'Installing all extras and the tools of the tests'
	@$(PIP) install --editable '.[backend,all,test,dev]'
	@touch $@ $(VENV)/.for-run

# Debian has Pythons without ensurepip; there the interpreter's own pip puts one into the environment.
$(BIN)/python:
	@set -e; found=; for each in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
		if "$$each" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$$each; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or later with its venv module is needed; none among:" \
			"$(or $(PYTHON),python3.13 python3.12 python3.11 python3). Install one, or name it: make PYTHON=..." >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	if "$$found" -c 'import ensurepip' 2>/dev/null; then \
		"$$found" -m venv --clear "$(VENV)"; \
	else \
		"$$found" -m venv --clear --without-pip "$(VENV)"; \
		"$$found" -m pip --quiet --python "$(BIN)/python" install pip; \
	fi; \
	"$(BIN)/python" -m pip --version >/dev/null
