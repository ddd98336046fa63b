# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
WORKERS ?= 2
# What was compiled once, tests with their rewritten assertions among it, is read the next time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-deploy check bench bench-peers bench-simulation bench-deployed images federation federation-local docs results lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/.runtime: requirements.txt pyproject.toml $(wildcard fedkit/native/*.[ch] fedkit/native/*.py)
	@test -n "$(PYTHON)" || { echo "fedkit needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fedkit needs Python 3.11 or newer, not $$("$(PYTHON)" -V): set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.runtime  ## four hospitals train one model with DP-SGD; says where the report is
	$(BIN)/fedkit simulate heart_disease --baselines

test: $(VENV)/.dev  ## every test but those of a deployed federation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not deploy"

test-deploy: $(VENV)/.dev  ## real processes, kill -9, stock Flower, and containers where podman is present
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m deploy -rs

check: $(VENV)/.dev  ## the developer's loop: format, lint, types, import contracts, fast tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow and not deploy"

$(PEERS)/.made: experiments/benchmarks/peers/requirements.txt
	@echo "making $(PEERS) for the peers of the benchmark (Flower with Ray, pfl-research, Opacus, torch): about a minute, 1.6 GB"
	@test -x $(PEERS)/bin/python || "$(PYTHON)" -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r experiments/benchmarks/peers/requirements.txt
	@touch $@

bench-peers: $(PEERS)/.made  ## the environment of the peers that a simulation is measured beside

bench: $(VENV)/.dev  ## ratios against named peers, and what is promised (BENCH=--quick: 3 minutes; BENCH=--write)
	-@$(MAKE) --no-print-directory bench-peers
	$(BIN)/python experiments/benchmarks/bench.py $(BENCH)

bench-simulation: $(VENV)/.dev  ## simulated federations alone, beside Flower's simulation and pfl-research
	-@$(MAKE) --no-print-directory bench-peers
	$(BIN)/python experiments/benchmarks/bench_simulation.py $(BENCH)

bench-deployed: $(VENV)/.dev  ## a deployed federation beside stock Flower's, about 25 minutes
	$(BIN)/python experiments/benchmarks/bench_deployed.py

results: $(VENV)/.runtime  ## regenerate the tables of experiments/*/README.md
	$(BIN)/python experiments/heart_disease/table.py --write
	$(BIN)/python experiments/flamby_heart/table.py --write
	$(BIN)/python experiments/privacy_utility/table.py --write
	$(BIN)/python experiments/digits/table.py --write

images: $(VENV)/.runtime  ## build the coordinator's and the site's image with podman or docker
	$(BIN)/python experiments/federation/engine.py

federation: $(VENV)/.runtime  ## the heart disease experiment across five hardened containers
	$(BIN)/python experiments/federation/run.py

federation-local: $(VENV)/.runtime  ## the same five as plain processes
	$(BIN)/python experiments/federation/run.py --local

docs: $(VENV)/.dev  ## regenerate the README's command output and picture (the picture needs chromium)
	$(BIN)/python docs/refresh.py

lock:  ## pin the newest versions that pyproject.toml admits
	docs/lock.sh "$(PYTHON)"

clean:  ## remove what a build leaves
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
