# Everything a clone needs: `make help` lists it. Each target first sets up what it needs, into .venv, and does nothing when that is there.
#
#   make demo                         teach the shipped model new classes, watch it answer
#   make test ARGS="tests/e2e -x"     any pytest arguments
#   make serve ARGS="--port 9000"     any arguments of `kshot serve`
#   make demo PYTHON=python3.12       another interpreter
#   make demo TORCH_INDEX=URL         another index for torch: PyTorch's CPU-only wheels are gigabytes smaller (README, "Install")

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=
BIN := $(VENV)/bin

# The build backend is pinned too: pip reads the first variable up to 25.2, the second from 25.3 on.
PIP_INSTALL = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --no-compile \
	--disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt

# What is imported is compiled once for all: tests start a hundred processes, and each would compile all of kshot again.
# So pip need not compile what nobody imports, which is most of it and takes as long as the rest of an installation.
export PYTHONDONTWRITEBYTECODE :=

# Tests side by side, one file after another; a worker that is done takes over half of what another has before it.
PYTEST_SIDE_BY_SIDE := -n logical --maxprocesses 8 --dist worksteal

# Programs that only tests need; the tests that want a missing one are skipped and say so.
SYSTEM_PACKAGES := curl nginx redis-server

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test soak coverage check format setup constraints prove-dockerfile results bench bench-gpu benchmarks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run $(VENV)/.kernels ## start a server, teach it classes it has never seen, print accuracy and latency, leave nothing running
	$(BIN)/kshot demo $(ARGS)

serve: $(VENV)/.run $(VENV)/.kernels ## serve the shipped models on 127.0.0.1:8000
	$(BIN)/kshot serve $(ARGS)

test: setup ## run the test suite
	$(BIN)/python -m pytest $(PYTEST_SIDE_BY_SIDE) $(ARGS)

soak: setup ## interleave two sessions from 16 clients for a minute; `make test` does a few seconds of it
	SOAK_SECONDS=60 $(BIN)/python -m pytest tests/e2e/test_isolation.py --log-cli-level=INFO $(ARGS)

coverage: setup ## run the test suite and list the lines that it does not reach
	$(BIN)/python -m pytest $(PYTEST_SIDE_BY_SIDE) --cov --cov-report=term-missing:skip-covered $(ARGS)

check: $(VENV)/.dev ## formatting, lint, types, the arrows between the packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## rewrite the sources as `make check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Debian keeps ensurepip in a package of its own (python3-venv). Without it, pip from outside puts itself into the new environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "kshot needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check pip; }

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing kshot into $(VENV): torch is large, so the first time takes minutes."
	@$(PIP_INSTALL) -e '.[server,torch]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing kshot and its development tools into $(VENV): torch is large, so the first time takes minutes."
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.run

# After .run or .dev, whichever is wanted: the order of the prerequisites below says it, so nothing here runs in parallel.
$(VENV)/.kernels: $(wildcard models/kshot_models/native/*.py models/kshot_models/batched/native/*.py) pyproject.toml constraints.txt
	@$(BIN)/python -m kshot_models.batched.native >/dev/null
	@touch $@

.NOTPARALLEL:

# Debian starts a service when it is installed, unless policy-rc.d says no: the tests want the programs, nobody wants the services.
setup: $(VENV)/.dev $(VENV)/.kernels ## install what the tests need, system packages too where apt and root are at hand
	@missing=; for tool in $(SYSTEM_PACKAGES); do PATH="$$PATH:/usr/sbin" command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "Not installed, and only root can install them with apt:$$missing. The tests that need them will be skipped."; exit 0; fi; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; fi; \
	echo "Installing Debian packages for the tests:$$missing"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

constraints: $(VENV)/.dev ## pin in constraints.txt what .venv holds now
	@{ sed -n '/^#/p' constraints.txt; \
		{ $(BIN)/python -m pip freeze --all --exclude-editable | sed 's/+.*//' | grep -v '^pip=='; \
		  grep -E '^(editables|hatchling|onnxruntime-gpu|trove-classifiers)==' constraints.txt; } | LC_ALL=C sort -fu; } > constraints.new
	@mv constraints.new constraints.txt

prove-dockerfile: ## build the image without a container engine, start it, teach it, stop it (needs root and Debian; CONTRIBUTING tells how)
	server/deploy/prove-dockerfile.sh

results: $(VENV)/.dev ## write RESULTS.md from the committed measurements, and a row for each one still to make
	$(BIN)/kshot reproduce --rows
	$(BIN)/python -m kshot_training.results training/results RESULTS.md

bench: $(VENV)/.dev $(VENV)/.kernels ## measure all that a CPU can (minutes, on a machine that does nothing else), then write BENCHMARKS.md
	$(BIN)/python -m kshot_bench.everything tests/benchmarks/results cpu $(ARGS)
	$(MAKE) benchmarks

bench-gpu: $(VENV)/.dev $(VENV)/.kernels ## measure all that needs a CUDA GPU, then write BENCHMARKS.md
	$(BIN)/python -m kshot_bench.everything tests/benchmarks/results cuda $(ARGS)
	$(MAKE) benchmarks

benchmarks: $(VENV)/.dev ## write BENCHMARKS.md from the committed measurements
	$(BIN)/python -m kshot_bench.render tests/benchmarks/results BENCHMARKS.md

clean: ## remove .venv, caches and what builds left
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
