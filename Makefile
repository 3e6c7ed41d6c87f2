# Every target creates the virtual environment that it needs, and updates it when these files change.
PYTHON   ?= python3
BACKENDS ?= tensorflow jax torch
TESTS    ?=
BENCH    ?=
WORKERS  ?= 2
MARKS     = not slow and not gpu
# Tests that do not depend on the backend run on the last one only.
ONCE      = and not once
REQUIREMENTS = setup.cfg pyproject.toml constraints.txt

# On Linux x86_64 the `tensorflow` package contains GPU code and is three times as large as `tensorflow-cpu`.
PLATFORM   := $(shell uname -s)-$(shell uname -m)
TENSORFLOW := $(if $(filter Linux-x86_64,$(PLATFORM)),tensorflow-cpu,tensorflow)

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export TF_CPP_MIN_LOG_LEVEL = 2
# One thread per test worker: the threads of several PyTorch processes would mostly wait for each other.
test test-all: export OMP_NUM_THREADS = 1
test-all: MARKS = not gpu
test-all: ONCE =

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs tables bench constraints clean check-python

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv-demo/installed ## Classify the images in examples/ and plot where the network looks (demo.png)
	KERAS_BACKEND=tensorflow .venv-demo/bin/keras-resattn predict examples/images/*.png
	KERAS_BACKEND=tensorflow .venv-demo/bin/keras-resattn attend examples/images/*.png -o demo.png

test: ## Run the tests on each backend; TESTS='-k masks' passes arguments to pytest
test-all: ## Run every test on every backend, including slow tests
test test-all: .venv-test/installed
	@status=0; summary=; \
	for backend in $(BACKENDS); do \
		echo "== pytest on $$backend"; \
		case $$backend in $(lastword $(BACKENDS))) marks="$(MARKS)";; *) marks="$(MARKS) $(ONCE)";; esac; \
		if KERAS_BACKEND=$$backend .venv-test/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "$$marks" $(TESTS); \
		then result=passed; \
		else result="FAILED (pytest exit status $$?)"; status=1; fi; \
		summary="$$summary$$backend: $$result\n"; \
	done; \
	printf "== summary\n$$summary"; exit $$status

# pyright reads the types of imported packages from .venv-test. The variable silences its hint about newer versions.
lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
lint: .venv-lint/installed .venv-test/installed ## Check style, formatting, spelling, types and the direction of imports
	.venv-lint/bin/ruff check
	.venv-lint/bin/ruff format --check
	.venv-lint/bin/codespell
	.venv-lint/bin/pyright
	.venv-lint/bin/lint-imports

docs: .venv-docs/installed ## Build the documentation into site/; an unresolved link or reference is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

tables: .venv-test/installed ## Update the tables of README and docs that are generated from data
	.venv-test/bin/python -m tools.tables

# Rows that results/benchmarks.csv already has for this machine and these versions are not measured again.
bench: .venv-test/installed ## Measure speed and memory beside alternatives; BENCH='--only SUITE' passes arguments
	.venv-test/bin/python benchmarks/run.py $(BENCH)
	.venv-test/bin/python benchmarks/report.py
	.venv-test/bin/python -m tools.tables

clean: ## Remove everything that make creates: environments, caches and builds
	rm -rf .venv-demo .venv-test .venv-lint .venv-docs .pytest_cache .ruff_cache build dist site *.egg-info demo.png
	find keras_resattn tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# On Linux x86_64; the file serves the other platforms too.
constraints: | check-python ## Update constraints.txt to the newest versions
	$(PYTHON) tools/update_constraints.py tensorflow tensorflow-cpu $(TEST_PACKAGES) $(LINT_PACKAGES) $(DOCS_PACKAGES)

TEST_PACKAGES = -e ".[jax,torch,viz,data,bench,export,int8,dev]"
LINT_PACKAGES = ruff codespell "pyright[nodejs]" import-linter
# ruff formats the signatures of the reference.
DOCS_PACKAGES = mkdocs-material "mkdocstrings[python]" ruff
.venv-demo/installed: PACKAGES = $(TENSORFLOW) -e ".[viz]"
.venv-test/installed: PACKAGES = $(TENSORFLOW) $(TEST_PACKAGES)
.venv-lint/installed: PACKAGES = $(LINT_PACKAGES)
.venv-docs/installed: PACKAGES = $(DOCS_PACKAGES)

.venv-%/installed: $(REQUIREMENTS) | check-python
	@echo "Installing into $(@D) ..."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --constraint constraints.txt $(PACKAGES)
	@touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | tail -n 1)." \
			"Name another, as in: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.11" >&2; exit 1; }
