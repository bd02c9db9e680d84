# The two commands: `make quickstart` and `make test`. `make help` lists the rest.
# Another Python: `make test PYTHON=python3.12`. Arguments: `make quickstart ARGS="--fast"`, `make test ARGS="-k ppo"`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests run one thread per process: small tensors lose more to waiting than they gain. Three processes keep two cores
# busy while one waits for a browser.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install quickstart test lint types slow chaos load lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## Tunesmith and its pinned dependencies into .venv

quickstart: install  ## the whole loop on the built-in loan desk, then the report
	$(BIN)/tunesmith quickstart $(ARGS)

test: lint types  ## linter, types and the default tests, on three processes
	$(PYTEST) --numprocesses 3 --dist loadfile $(ARGS)

lint: $(VENV)/.tools  ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.tools  ## mypy
	$(BIN)/mypy

slow: $(VENV)/.tools  ## the tests that take minutes
	$(PYTEST) -m slow --timeout 3600 $(ARGS)

chaos: $(VENV)/.tools  ## kill training at random moments and compare the results bit for bit
	$(PYTEST) -m chaos --timeout 3600 $(ARGS)

load: $(VENV)/.tools  ## 500 labelers at once, ten minutes on each database
	$(PYTEST) -m load -s $(ARGS)

lock: TORCH := $(shell grep '^torch==' requirements.lock)
lock:  ## work out both locks again from pyproject.toml (the line of torch is changed by hand)
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet "$(TORCH)" hatchling editables .
	@printf '%s\n' \
	  '# Exact versions of everything that runs, and of the build backend. Made by `make lock`; do not edit.' \
	  '# torch: pip takes the CPU or the CUDA build of this version, whichever it is told to look for.' > requirements.lock
	$(VENV)/lock/bin/pip freeze --all --exclude pip --exclude tunesmith | sed 's/+cpu$$//' \
	  | grep -Ev '^(nvidia|cuda|triton)' | LC_ALL=C sort -f >> requirements.lock
	$(VENV)/lock/bin/pip install --quiet "$(TORCH)" ".[dev]"
	@printf '%s\n' '# What `make test` needs on top. Made by `make lock`; do not edit.' '-r requirements.lock' \
	  > requirements-dev.lock
	$(VENV)/lock/bin/pip freeze --all --exclude pip --exclude tunesmith | sed 's/+cpu$$//' \
	  | grep -Ev '^(nvidia|cuda|triton)' | grep -vxFf requirements.lock | LC_ALL=C sort -f >> requirements-dev.lock
	rm -rf $(VENV)/lock

clean:  ## remove .venv and caches; a workspace is never touched
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Tunesmith needs Python 3.11 or newer, $(PYTHON) is not; try: make install PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@
