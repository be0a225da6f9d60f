# Every target makes the environment it needs first; `make help` lists them.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BENCH_VENV := .venv-bench
BIN := $(VENV)/bin

# The version is read from __init__.py when the package is installed.
INSTALL_INPUTS := pyproject.toml constraints.txt src/ancestral/__init__.py

.PHONY: help demo test test-slow test-gpu test-browser docs docs-pages format bench bench-gpu wheels clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-run ## train and compare a VAE, a hierarchical VAE and a DDPM on digits, into runs/digits
	$(BIN)/ancestral compare --data digits --out runs/digits --steps 600 --importance-samples 256

# The tests run in WORKERS processes of one thread each: more threads than cores are slower.
test: $(VENV)/.installed-test ## lint, format check, types, import contracts, all tests but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not browser"

test-slow: $(VENV)/.installed-test ## the tests that take more than ten seconds each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "slow and not browser"

# On a GPU machine without a network, PYTHON is given: no environment is made, and all that is installed is wheels/.
ifeq ($(origin PYTHON),command line)
GPU_PYTHON := PYTHONPATH='$(CURDIR)/src' $(PYTHON)
else
GPU_PYTHON := $(BIN)/python
GPU_READY := $(VENV)/.installed-test
endif

test-gpu: $(GPU_READY) ## on a GPU: the tests that need one and a few figures, in at most 8 minutes
ifeq ($(origin PYTHON),command line)
	$(if $(wildcard wheels/*.whl),$(PYTHON) -m pip install --disable-pip-version-check --no-index --find-links wheels --no-deps $(wildcard wheels/*.whl))
endif
	$(GPU_PYTHON) benchmarks/gpu_check.py

# What a machine that has torch and the usual packages beside it lacks; never torch.
WHEELS := annotated-types diffusers docstring_parser execnet importlib_metadata iniconfig pluggy pydantic \
	pydantic_core pytest pytest-xdist typeguard typing-inspection typing_extensions tyro zuko

wheels: $(VENV)/.installed-run ## download into wheels/ what make test-gpu installs, for Python 3.12 on Linux
	rm -rf wheels
	$(BIN)/python -m pip download --disable-pip-version-check --constraint constraints.txt --no-deps --dest wheels \
		--only-binary=:all: --implementation cp --python-version 3.12 --platform manylinux2014_x86_64 $(WHEELS)

# Looks at pages in headless Chromium, where there is one; nothing is installed for it.
test-browser: $(VENV)/.installed-test ## look at the report in a browser
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m browser tests/browser

docs: $(VENV)/.installed-test ## build the documentation's site, into site/
	$(BIN)/python -m mkdocs build --strict

# Help texts, and messages of mistakes, as they are now.
docs-pages: $(VENV)/.installed-test ## write the pages of the documentation that are made by tests
	ANCESTRAL_DOCS=write OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/docs/test_commands_page.py tests/cli/test_bad_input.py tests/inputs/test_inputs.py

format: $(VENV)/.installed-test ## format the code and fix what the linter can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# The two that take long or need data of your own are not among them: benchmarks/scaling.py, time_to_distance.py.
bench: $(BENCH_VENV)/.installed-bench ## time training and sampling beside the peers, into docs/speed.md
	$(BENCH_VENV)/bin/python benchmarks/vae_training.py
	$(BENCH_VENV)/bin/python benchmarks/ddpm_training.py
	$(BENCH_VENV)/bin/python benchmarks/ddpm_sampling.py
	$(BENCH_VENV)/bin/python benchmarks/table.py

bench-gpu: $(BENCH_VENV)/.installed-bench ## the same on a GPU
	$(BENCH_VENV)/bin/python benchmarks/gpu.py
	$(BENCH_VENV)/bin/python benchmarks/table.py

clean: ## remove caches and build outputs; environments and runs stay
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,ENVIRONMENT,EXTRAS,STAMPS). An environment without a stamp is one whose installation
# never ended: it is begun anew. One with a stamp is brought up to date.
define install
	@ls $(1)/.installed-* >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1)
	@rm -f $(1)/.installed-*
	$(1)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt setuptools
	$(1)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.$(2)'
	@$(if $(3),touch $(3),true)
endef

$(VENV)/.installed-run: $(INSTALL_INPUTS)
	$(call install,$(VENV),,$(VENV)/.installed-run)

$(VENV)/.installed-test: $(INSTALL_INPUTS)
	$(call install,$(VENV),[test],$(VENV)/.installed-run $(VENV)/.installed-test)

$(BENCH_VENV)/.installed-bench: $(INSTALL_INPUTS)
	$(call install,$(BENCH_VENV),[bench],)
	$(BENCH_VENV)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --no-deps denoising-diffusion-pytorch
	@touch $(BENCH_VENV)/.installed-bench
