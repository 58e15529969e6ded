# Targets are in the order in which a newcomer needs them; `make help` prints them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
SERVICE_TESTS := $(wildcard tests/serve tests/faults/test_serving.py)
RUNTIME_LOCK := requirements-runtime.lock
RESULTS = --junitxml=.pytest_cache/$(1).xml
STAMP := $(VENV)/installed-$(shell sha256sum $(LOCK) | cut -c1-16)
export PYTHONPATH := platform
export RAY_USAGE_STATS_ENABLED := 0
# Ray's `uv run` hook would look for a Python outside this environment.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.PHONY: help setup quickstart serve mine glue-demo reproduction check test test-all test-docs bench measure golden format lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv from the lock file (again only if the lock file changes)

# All packages but torch are installed with verified hashes and without dependency resolution. torch comes last and is
# pinned only by version, because its CPU and CUDA builds are different files. Its only dependencies that the lock file
# lacks are the CUDA packages. Only modules that are imported are compiled, which takes a third of the time.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit("distilray needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else 0'
	@echo "setting up $(VENV) from $(LOCK) (once; a few minutes)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@grep -v '^torch==' $(LOCK) > $(VENV)/hashed.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-compile --no-deps --require-hashes -r $(VENV)/hashed.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-compile "$$(grep '^torch==' $(LOCK))"
	@touch $@

quickstart: setup  ## run the whole pipeline on a sample: dump -> student -> HTTP answer (runs/quickstart)
	@$(BIN)/python -m jobs.run_pipeline jobs/pipelines/quickstart.yaml

serve: setup  ## serve the student of the quickstart at http://127.0.0.1:8000
	@$(BIN)/python -m jobs.serve_fill_mask $(if $(PORT),port=$(PORT))

mine: setup  ## distill a student for your own text and serve it: make mine TEXT=my-texts/ MODEL=hub:OWNER/NAME
	@test -n "$(TEXT)" || { echo "make mine: name your text: make mine TEXT=my-texts/ [MODEL=hub:OWNER/NAME [ADAPT=no]]"; exit 2; }
	@$(BIN)/python -m jobs.run_pipeline jobs/pipelines/mine$(if $(filter no false 0,$(ADAPT)),-without-adaptation).yaml text='$(TEXT)' $(if $(MODEL),model='$(MODEL)')
	@$(BIN)/python -m jobs.serve_fill_mask app.model_dir=runs/mine/student $(if $(PORT),port=$(PORT))

glue-demo: setup  ## search for fine-tuning settings on a small task in GLUE's format, offline (runs/glue-demo)
	@$(BIN)/python -m jobs.run_pipeline jobs/pipelines/glue-demo.yaml

reproduction: setup  ## reproduce the claim of DistilBERT in miniature (2.5 h): make reproduction GLUE=FOLDER
	@$(BIN)/python -m jobs.run_pipeline jobs/pipelines/reproduction.yaml $(if $(GLUE),glue='$(GLUE)') $(STAGES)

check: setup  ## check format, lint, types and import rules; run the fast tests (3 minutes)
	@test ! -e platform/__init__.py || { echo "platform/__init__.py shadows the standard library module platform: remove it"; exit 1; }
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache & imports=$$!; $(BIN)/mypy; wait $$imports
	$(BIN)/python -m pytest -m "not slow and not docs" -n auto --maxprocesses 8 $(call RESULTS,fast)

test: check  ## run check and the most important slow tests: pipeline, job, service, kills (10 minutes)
	$(BIN)/python -m pytest -m smoke -n 2 --dist loadfile $(SERVICE_TESTS:%=--ignore=%) $(call RESULTS,smoke)
	$(BIN)/python -m pytest -m smoke $(SERVICE_TESTS) $(call RESULTS,smoke-service)

# Two files run at a time, because slow tests mostly wait for Ray's processes. The tests of the service have time
# limits, so they run one after the other.
test-all: check  ## run check and all slow tests: Ray clusters, jobs, HTTP, browsers, faults (half an hour)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile $(SERVICE_TESTS:%=--ignore=%) $(call RESULTS,slow)
	$(BIN)/python -m pytest -m slow $(SERVICE_TESTS) $(call RESULTS,service)

test-docs: setup  ## run every command of README and docs, including the long ones
	$(BIN)/python -m pytest -m docs

# The words after `bench` are names, not targets.
ifeq (bench,$(firstword $(MAKECMDGOALS)))
BENCHMARKS := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
$(eval $(BENCHMARKS):;@:)
endif

bench: setup  ## run all benchmarks, or one: make bench NAME (at most 5 minutes each)
	@PYTHONPATH=platform:. $(BIN)/python -m benchmarks $(BENCHMARKS)

measure: setup  ## print the size of the code, its style, and the duration of the last test runs
	@PYTHONPATH=platform:. $(BIN)/python -m tests.layout.measure

golden: setup  ## update the recordings of tests/golden after an intended change of results
	$(BIN)/python -m tests.golden.record

format: setup  ## format the code and fix lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Both lock files contain wheels only. The image installs the runtime lock, which has the same versions but no test
# tools and no sample data.
COMPILE = uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --only-binary :all: --quiet \
	  --no-emit-package torch --no-annotate --no-header

lock: setup  ## update the lock files after a change of pyproject.toml (needs uv; LOCK_FLAGS=--upgrade)
	@grep -v '^#\|^torch==' $(LOCK) > $(VENV)/new.lock
	@$(COMPILE) $(LOCK_FLAGS) --all-extras --constraint <(grep '^torch==' $(LOCK)) -o $(VENV)/new.lock
	@{ sed -n '/^#/p; /^torch==/p' $(LOCK); cat $(VENV)/new.lock; } > $(VENV)/whole.lock && mv $(VENV)/whole.lock $(LOCK)
	@rm -f $(VENV)/new.lock
	@$(COMPILE) --extra onnx --extra search --extra tracking --extra aws --constraint $(LOCK) -o $(VENV)/new.lock
	@{ sed -n '/^#/p' $(RUNTIME_LOCK); grep '^torch==' $(LOCK); cat $(VENV)/new.lock; } > $(VENV)/whole.lock \
	  && mv $(VENV)/whole.lock $(RUNTIME_LOCK)

clean:  ## remove everything that the targets created, including runs/ and .venv
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
