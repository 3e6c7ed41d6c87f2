# Every target makes the virtual environment that it needs, once, and again when these files change.
PYTHON   ?= python3
BACKENDS ?= tensorflow jax torch
TESTS    ?=
WORKERS  ?= 2
MARKS     = not slow and not gpu
# What does not depend on the backend runs on the last one only.
ONCE      = and not once
REQUIREMENTS = setup.cfg pyproject.toml constraints.txt

# On Linux x86_64 the `tensorflow` package brings code for GPUs, in three times the size.
PLATFORM   := $(shell uname -s)-$(shell uname -m)
TENSORFLOW := $(if $(filter Linux-x86_64,$(PLATFORM)),tensorflow-cpu,tensorflow)

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export TF_CPP_MIN_LOG_LEVEL = 2
# Each test worker keeps to its core: PyTorch's threads otherwise wait for each other, many times longer than they work.
test test-all: export OMP_NUM_THREADS = 1
test-all: MARKS = not gpu
test-all: ONCE =

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench clean check-python

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv-demo/installed ## Classify the images in examples/, and draw where the network looks (demo.png)
	KERAS_BACKEND=tensorflow .venv-demo/bin/keras-resattn predict examples/images/*.png
	KERAS_BACKEND=tensorflow .venv-demo/bin/keras-resattn attend examples/images/*.png -o demo.png

test: ## Run the tests on each backend; TESTS='-k masks' passes arguments on to pytest
test-all: ## Run every test on every backend, the slow ones included
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

# pyright reads the types of what the package imports in .venv-test, and asks for no newer version of itself.
lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
lint: .venv-lint/installed .venv-test/installed ## Check style, formatting, types and the direction of imports
	.venv-lint/bin/ruff check
	.venv-lint/bin/ruff format --check
	.venv-lint/bin/pyright
	.venv-lint/bin/lint-imports

bench: .venv-test/installed ## Run the benchmarks, which append to results/*.csv
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; .venv-test/bin/python $$script || exit; done

clean: ## Remove what make made: environments, caches and builds
	rm -rf .venv-demo .venv-test .venv-lint .pytest_cache .ruff_cache build dist site *.egg-info demo.png
	find keras_resattn tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

.venv-demo/installed: PACKAGES = $(TENSORFLOW) -e ".[viz]"
.venv-test/installed: PACKAGES = $(TENSORFLOW) -e ".[jax,torch,viz,data,dev]"
.venv-lint/installed: PACKAGES = ruff "pyright[nodejs]" import-linter

.venv-%/installed: $(REQUIREMENTS) | check-python
	@echo "Installing into $(@D) ..."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --constraint constraints.txt $(PACKAGES)
	@touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | tail -n 1)." \
			"Name another, as in: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.11" >&2; exit 1; }
