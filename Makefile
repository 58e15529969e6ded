# The targets stand in the order in which a newcomer needs them; `make help` prints them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
ALONE := $(wildcard tests/serve tests/faults/test_serving.py)
RUNTIME_LOCK := requirements-runtime.lock
STAMP := $(VENV)/installed-$(shell sha256sum $(LOCK) Makefile | sha256sum | cut -c1-16)
export PYTHONPATH := platform
export RAY_USAGE_STATS_ENABLED := 0
# Ray's own `uv run` hook would look for another Python than the one of this environment.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.PHONY: help setup quickstart serve glue-demo reproduction check test test-slow golden format lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv from the lock file (again only when the lock changes)

# Everything but torch is installed with its hashes checked and nothing resolved; torch comes last, by version, because
# its CPU and CUDA builds are different files. What torch itself needs is by then in place, except the CUDA packages.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit("distilray needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else 0'
	@echo "setting up $(VENV) from $(LOCK) (once; a few minutes)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@grep -v '^torch==' $(LOCK) > $(VENV)/hashed.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps --require-hashes -r $(VENV)/hashed.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$$(grep '^torch==' $(LOCK))"
	@touch $@

quickstart: setup  ## the whole line on a real Wikipedia sample: dump -> student -> HTTP answer (runs/quickstart)
	@$(BIN)/python -m jobs.run_pipeline jobs/pipelines/quickstart.yaml

serve: setup  ## leave the quickstart's student up at http://127.0.0.1:8000 until Ctrl-C
	@$(BIN)/python -m jobs.serve_fill_mask

glue-demo: setup  ## search fine-tuning settings on a small task in GLUE's layout, offline (runs/glue-demo)
	@$(BIN)/python -m jobs.run_pipeline jobs/pipelines/glue-demo.yaml

reproduction: setup  ## the claim of DistilBERT in miniature, some 2.5 h: make reproduction GLUE=FOLDER (runs/reproduction)
	@$(BIN)/python -m jobs.run_pipeline jobs/pipelines/reproduction.yaml $(if $(GLUE),glue='$(GLUE)') $(STAGES)

check: setup  ## format, lint, types, import rules, fast tests
	@test ! -e platform/__init__.py || { echo "platform/__init__.py shadows Python's own module platform: remove it"; exit 1; }
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8

test: check test-slow  ## everything CI runs: check, then the slow tests

# Two files at a time: much of a slow test waits for Ray's processes. What serves has margins of time, and runs alone.
test-slow: setup  ## only the tests that take minutes: real Ray clusters, jobs, HTTP
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest -m slow $(ALONE)

golden: setup  ## record again what tests/golden compares with, after a change of results that is meant
	$(BIN)/python -m tests.golden.record

format: setup  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Both locks have wheels only. The runtime lock is what the image installs: the same versions, without the tools of the
# tests and the data packages.
COMPILE = uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --only-binary :all: --quiet \
	  --no-emit-package torch --no-annotate --no-header

lock: setup  ## write both lock files for a changed pyproject.toml (needs uv on the path; LOCK_FLAGS=--upgrade for newer versions)
	@grep -v '^#\|^torch==' $(LOCK) > $(VENV)/new.lock
	@$(COMPILE) $(LOCK_FLAGS) --all-extras --constraint <(grep '^torch==' $(LOCK)) -o $(VENV)/new.lock
	@{ sed -n '/^#/p; /^torch==/p' $(LOCK); cat $(VENV)/new.lock; } > $(VENV)/whole.lock && mv $(VENV)/whole.lock $(LOCK)
	@rm -f $(VENV)/new.lock
	@$(COMPILE) --extra onnx --extra search --extra tracking --extra aws --constraint $(LOCK) -o $(VENV)/new.lock
	@{ sed -n '/^#/p' $(RUNTIME_LOCK); grep '^torch==' $(LOCK); cat $(VENV)/new.lock; } > $(VENV)/whole.lock \
	  && mv $(VENV)/whole.lock $(RUNTIME_LOCK)

clean:  ## remove what the targets made, runs/ and .venv included
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
