# Two commands: `make demo` shows what promptmix does, `make test` checks it. Both build .venv first, once.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test bench clean

# What Python compiles it keeps, whatever the environment says: else each of the many processes that the tests start would compile
# torch again.
unexport PYTHONDONTWRITEBYTECODE

# The first Python that is new enough; another one: make demo PYTHON=/path/to/python3
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
# Errors are shown, nothing else is; a stamp says what is installed, so that the second time is quick. Python compiles what it
# imports; compiling all of torch, and of the test tools, takes longer than downloading it.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip install -qq --no-compile
INSTALL_PACKAGE := $(PIP) --no-build-isolation --no-deps -e .

help:
	@echo "make demo    train, compare and explain on the bundled pictures; no network, no GPU needed"
	@echo "make test    lint, check the types and run the tests"
	@echo "make bench   measure speed and memory (half an hour)"
	@echo "make clean   remove .venv and all caches"
	@echo "Another Python: make demo PYTHON=/path/to/python3"

demo: .venv/.demo-ready
	@$(BIN)/promptmix demo --overwrite

test: .venv/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tools $(wildcard benchmarks/*.py)
	$(BIN)/pytest -n 2 --dist worksteal

bench: .venv/.demo-ready
	@$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made:
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { echo "promptmix needs Python 3.11 or later, and \
	$(if $(PYTHON),$(PYTHON) is not,none was found); name one: make demo PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv
	@touch $@

.venv/.demo-ready: .venv/.made requirements/tested.txt pyproject.toml
	@echo "Installing promptmix and its dependencies into .venv (once, about a minute)" >&2
	@$(PIP) -r requirements/tested.txt
	@$(INSTALL_PACKAGE)
	@touch $@

.venv/.test-ready: .venv/.demo-ready requirements/tested-dev.txt
	@echo "Installing the test tools into .venv (once, less than a minute)" >&2
	@$(PIP) -r requirements/tested-dev.txt
	@touch $@
