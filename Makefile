# GNU make, Python 3.11 or newer and pip are all that this needs; everything is installed into .venv.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_INSTALLED := $(VENV)/.installed-demo
INSTALL := $(BIN)/python -m pip install -qq --progress-bar off --no-input -c constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format bench train install clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(DEMO_INSTALLED)) ## install, and ask the embedded model about the media in examples/media
	@$(BIN)/python examples/demo.py

test: lint ## install, and run the full check: lint, types, layers, tests, README, examples
	@echo "== pytest"
	@OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses=2 --dist=loadfile --durations=10

test-slow: $(INSTALLED) ## run the tests that need more time or memory
	@$(BIN)/pytest --quiet -m slow

lint: $(INSTALLED) ## ruff, mypy --strict and the layers between the packages
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import-linter"
	@$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## let ruff format and repair what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED) ## measure, and write the numbers into benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/ask.py --write
	@$(BIN)/python benchmarks/injection.py --write
	@$(BIN)/python benchmarks/imagebind.py --write
	@$(BIN)/python benchmarks/library.py --write
	@$(BIN)/python benchmarks/visual_cache.py --write
	@$(BIN)/python benchmarks/retrieval.py --write

train: $(INSTALLED) ## train the embedded model again, from procedural data (hours; resumes where it stopped)
	@$(BIN)/python -m ibllm_tools.mini train

install: $(INSTALLED) ## install into .venv; skipped when it is up to date

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "== creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(DEMO_INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing ibllm-tools and what it needs for every modality into $(VENV) (once; about a minute)"
	@$(INSTALL) -e '.[all]'
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing ibllm-tools, all its extras and the tools of the full check into $(VENV) (once; it takes minutes)"
	@$(INSTALL) -e '.[dev]'
	@touch $@

clean: ## remove .venv, build outputs and caches; what training made in runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
