# Everything runs in $(VENV), against the installed wheel: `make help` lists the commands.
#
# PYTHON   the Python (3.10 or newer) to create $(VENV) with; `make clean` before you change it
# VENV     where to install
# WORKERS  how many tests of `make test` run side by side; most of them wait for something most of the time
# CHAOS, SOAK_ROUNDS, FUZZ_EXAMPLES  where `make chaos` writes, how many rounds its soak has, and how many random inputs
#          a fuzz test of it has, unless that takes a share of them only: some 7 times as many in all
# NVFLARE  the nvflare to install, as a pip requirement, for example NVFLARE=nvflare==2.8.0

PYTHON ?= python3
VENV ?= .venv
NVFLARE ?= nvflare
WORKERS ?= 8
CHAOS ?= .chaos
SOAK_ROUNDS ?= 10
FUZZ_EXAMPLES ?= 30000

# Else each of a test's many processes compiles the modules of the tests again.
unexport PYTHONDONTWRITEBYTECODE

RUN := "$(VENV)/bin/python"
PIP := $(RUN) -m pip --disable-pip-version-check -qq
# Folders too: their times change when a file is removed.
SOURCES := $(shell find nvflare -name __pycache__ -prune -o -print)
LINTED := $(wildcard nvflare tests examples bench)
LICENCE := 'Copyright (c) 20[0-9][0-9], NVIDIA CORPORATION.  All rights reserved.$$' 'Licensed under the Apache License, Version 2.0 '
FUZZ_TESTS := $(wildcard tests/*/client_api/*fuzz_test.py tests/unit_test/app_common/executors/client_api/*fuzz_test.py)
FEDERATION := tests/integration_test/client_api/federation

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test chaos lint bench clean

help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: $(VENV)/.wheel  ## run a federated job with two sites in nvflare's simulator (DEMO_ARGS="--rounds 3")
	@$(RUN) examples/hello_numpy/run.py $(DEMO_ARGS)

# OpenMP's idle threads would spin for the cores that all these processes share.
test chaos: export OMP_NUM_THREADS := 1
# Else Python's garbage collector takes a third of the time of processes that live for a second.
test chaos: export PYTHONPATH := $(CURDIR)/tests/short_lived
# A worker that a watchdog has ended is not replaced: pytest-xdist would wait for ever for the tests that it had.
test: $(VENV)/.wheel  ## run all tests against the installed wheel (TEST_ARGS="-k name")
	@$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(TEST_ARGS)

# 5 is pytest's word for: TEST_ARGS has selected none of them.
chaos: $(VENV)/.wheel  ## kill, stop and cut a real federation in every phase; report: .chaos/report.html (SOAK_ROUNDS=500)
	@rm -rf $(CHAOS) && mkdir -p $(CHAOS)
	@status=0; \
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(RUN) -m pytest $(FUZZ_TESTS) $(TEST_ARGS) || [ $$? -eq 5 ] || status=1; \
	CHAOS_REPORT="$(abspath $(CHAOS))" SOAK_ROUNDS=$(SOAK_ROUNDS) $(RUN) -m pytest $(FEDERATION) -m "chaos or not chaos" $(TEST_ARGS) || status=$$?; \
	$(RUN) -m $(subst /,.,$(FEDERATION)).report $(CHAOS); exit $$status

lint: $(VENV)/.linters  ## check format (black, isort), style (flake8) and licence headers
	@$(RUN) -m black --check $(LINTED)
	@$(RUN) -m isort --check $(LINTED)
	@$(RUN) -m flake8 $(LINTED)
	@for line in $(LICENCE); do \
	    ! grep -rL --include='*.py' "^# $$line" $(LINTED) | sed 's/$$/: no licence header/' | grep . || exit 1; \
	done

bench:  ## measure against the executors of nvflare 2.8 and 2.9, in environments of its own (BENCH_ARGS=--help)
	@$(PYTHON) bench/run.py $(BENCH_ARGS)

clean:  ## remove all that these commands create
	rm -rf .venv .venv-* .demo .demo-* .bench .chaos .hypothesis .pytest_cache build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# nvflare and what the tests need: again only when pyproject.toml changes.
$(VENV)/.dependencies: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is older: make PYTHON=...")'
	@echo "creating $(VENV) and installing $(NVFLARE) with its dependencies (a minute or two) ..."
	@$(PYTHON) -m venv "$(VENV)"
	@$(PIP) install "$(NVFLARE)" ".[test]"
	@rm -rf build *.egg-info
	@touch "$@"

# Apart, because only `make lint` needs them.
$(VENV)/.linters: $(VENV)/.dependencies
	@echo "installing the linters into $(VENV) ..."
	@$(PIP) install "$(NVFLARE)" ".[lint]"
	@rm -rf build *.egg-info
	@touch "$@"

# Our wheel alone, built from a clean state: again when one of its files changes.
$(VENV)/.wheel: $(VENV)/.dependencies $(SOURCES)
	@echo "building the wheel and installing it into $(VENV) ..."
	@rm -rf build dist *.egg-info
	@$(PIP) wheel --no-deps --wheel-dir dist .
	@$(PIP) install --no-deps --force-reinstall dist/*.whl
	@rm -rf build *.egg-info
	@touch "$@"
