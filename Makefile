# `make demo` shows it, `make test` proves it. Needs make and Python 3.11 or newer: `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install

.PHONY: help demo test check crash bench clean

help:
	@echo "make demo    run an example on real data"
	@echo "make test    everything: lint, types, floors, tests"
	@echo "make check   lint, types and floors only"
	@echo "make crash   a night of kills, faults and simulated crashes (SCALE=0.01 for a look)"
	@echo "make bench   the benchmarks (ARGS=name for one)"
	@echo "make clean   take away what these made; runs/ stays"

demo: $(VENV)/.installed
	$(BIN)/obzen run examples/06_flights.py

test: check
	$(BIN)/pytest -n 2

check: $(VENV)/.installed-dev
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

crash: $(VENV)/.installed-dev
	SCALE=$(SCALE) $(BIN)/python -m tests.crash.night

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp stands only after a whole installation, so one that was interrupted is made again.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "This Python has no venv; on Debian: apt install python3-venv"; exit 1; }
