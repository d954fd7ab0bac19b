# A fresh machine needs Python 3.11 and a C compiler; everything else is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
EXTRAS := cpu,plot,train,demo,dev

.DEFAULT_GOAL := help
.PHONY: help install rtx demo test test-all lint docs clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# torch first and by itself, at its pinned version: nothing installed later can then choose another build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(READY)

install: $(READY) ## make .venv with everything in it

# NVIDIA's package, under its own licence, for Linux and Windows on x86: so `make install` leaves it out.
rtx: $(READY) ## install TensorRT-RTX into .venv, which builds engines for RTX GPUs on any machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[rtx]'

demo: $(READY) ## compress a real encoder for this CPU, from fine-tuning to the verdict
	$(BIN)/compress demo

test: $(READY) ## run the fast tests: laws on a sample of examples, one whole run of each command
	$(PYTEST) -m "not slow and not e2e"

test-all: $(READY) ## run every test on all examples, as CI does
	HYPOTHESIS_PROFILE=ci $(PYTEST)

lint: $(READY) ## ruff, mypy, import-linter and bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks examples docs/reference.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive compress profile export

docs: $(READY) ## build the API reference into build/docs
	$(BIN)/python docs/reference.py build/docs

clean: ## remove .venv and what builds leave
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
