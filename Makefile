# Everything happens in .venv/ beside this file; nothing is installed outside it.
#   make        sets up .venv (once; again when pyproject.toml or constraints.txt changes)
#   make demo   ranks eight settings of a training script, then goes from images of digits to a report on detectors (less than eight minutes)
#   make test   runs the checks and the tests; make test-fast what is quick of them, at each save; make test-all every one

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist worksteal

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.setup-done
SHELL := /bin/bash

.PHONY: setup demo demo-hpo demo-det test test-fast test-all lint bench clean
.DELETE_ON_ERROR:

setup: $(STAMP)
	@echo "Ready. Next: make demo, or make test; 'source $(BIN)/activate' puts search-init, search-run and search-ctl on your PATH."

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' here. Install Python 3.10 or newer (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "searchkit needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments: its venv module is not installed. Debian, Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@if [ -d $(VENV) ] && ! $(BIN)/python -m pip --version >/dev/null 2>&1; then echo "$(VENV)/ does not work any more; making it anew"; rm -rf $(VENV); fi
	@if [ ! -d $(VENV) ]; then echo "[1/3] making $(VENV)/ with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(VENV); else echo "[1/3] $(VENV)/ is there"; fi
	@echo "[2/3] installing searchkit and what its tests and recipes use (PyTorch is large: this can take some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@echo "[3/3] checking that the installed packages fit together"
	@$(BIN)/python -m pip check --disable-pip-version-check
	@touch $(STAMP)

# What a user would type, from the first command to the result: first settings of a script, then a detector from images.
demo: demo-hpo demo-det

demo-hpo demo-det: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo-hpo: $(STAMP)
	rm -rf .demo/hpo && mkdir -p .demo/hpo
	cd .demo/hpo && search-init --template hpo/digits
	cd .demo/hpo && search-run --task digits config.yaml
	cd .demo/hpo && search-ctl show --task digits --jobs 0,1
	cd .demo/hpo && search-ctl show-scalar --task digits -rt +5

demo-det: $(STAMP)
	rm -rf .demo/det && mkdir -p .demo/det
	cd .demo/det && search-init
	cd .demo/det && search-nas data digits-det --out digits --images 200 40 40
	cd .demo/det && search-nas init digits --budget '40 MMACs' --time 8m
	cd .demo/det && search-run --task det cfg.yaml
	cd .demo/det && search-ctl show-scalar --task det.tune -rt +5
	@echo "The report, which detector to take and whether the search paid:"
	@ls $(CURDIR)/.demo/det/.search-run/tasks/det.report/jobs/all/0/det/report.{html,png}

test: lint
	env -u PYTHONUNBUFFERED $(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

# The long ones, too: whole sweeps of kills and all variants of recipes, of which `make test` runs a sample.
test-all: lint
	env -u PYTHONUNBUFFERED $(BIN)/python -m pytest $(PYTEST_ARGS)

# At each save: what is quick of every package, under two minutes on two cores.
test-fast: $(STAMP)
	$(BIN)/ruff check .
	env -u PYTHONUNBUFFERED $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/price.py
	$(BIN)/python benchmarks/supernet.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/label_loader.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/search.py

clean:
	rm -rf .demo .bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@echo "Kept $(VENV)/; 'rm -rf $(VENV)' removes it too."
