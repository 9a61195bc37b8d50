# `make demo` and `make test` work on a fresh clone: each creates .venv and installs what it needs at exact versions.
# To avoid downloading CUDA, point one of pip's settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, …) at
# PyTorch's CPU builds.

PYTHON ?= python3
VENV   ?= .venv
VLLM   ?= .venv-vllm
SERVER ?= .venv-server
OLDEST ?= .venv-oldest
NEWEST ?= .venv-newest
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
CREATE := $(PYTHON) -m venv
INSTALL := bin/python -m pip --disable-pip-version-check install --quiet --only-binary :all:

.PHONY: help demo test test-fuzz test-versions test-vllm test-server lint types check pretrain wheel dist clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1 #/p' $(MAKEFILE_LIST) | awk -F' # *' '{ printf "  make %-13s  %s\n", $$1, $$2 }'

demo: $(VENV)/.demo  ## Ask the bundled policy one question about large print and one about small print
	@$(BIN)/python examples/demo.py

# One process per core, with one thread each: more threads would compete for the cores.
test: $(VENV)/.dev  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The newest versions are those of the day: the environment is brought up to date in every run.
test-versions: $(OLDEST)/.made  ## Run the core tests with the oldest allowed and with the newest versions, in separate environments
	$(CREATE) $(NEWEST)
	$(NEWEST)/$(INSTALL) --upgrade --upgrade-strategy eager --editable '.[agents,cli,openai,postgres]' --requirement tests/versions/requirements.txt deepagents
	tests/versions/run.sh $(OLDEST) $(NEWEST)
test-fuzz: $(VENV)/.dev  ## Put 100,000 random replies through the graph and the middleware (an hour on one core)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.fuzz_replies 100000

test-vllm: $(VENV)/.dev $(VLLM)/.made  ## Run the contract tests against real vLLM on the CPU, in a separate environment (2 GB)
	VTAGENT_VLLM=$(VLLM)/bin/vllm $(BIN)/python -m pytest -s --timeout 3600 tests/vllm/contract_*.py

test-server: $(VENV)/.dev $(SERVER)/.made  ## Run the contract tests against a LangGraph development server, in a separate environment
	VTAGENT_SERVER=$(SERVER)/bin/langgraph $(BIN)/python -m pytest -s --timeout 3600 tests/server/contract_*.py

lint: $(VENV)/.dev  ## Run the linter and check the formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Run the type checker
	$(BIN)/mypy

check: lint types test  ## Run the linter, the type checker and the tests

# A training step allocates and frees gigabytes. Without huge pages, page faults would take a third of its time.
pretrain: $(VENV)/.dev  ## Train the bundled policy `base` from scratch (about 135 minutes on two cores); continues where it was interrupted
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m vtagent.training.pretrain --out runs/base

wheel: $(VENV)/.dev  ## Build dist/vtagent-*.whl
	$(BIN)/python -m build --wheel

dist: $(VENV)/.dev  ## Build the source distribution and, from it, the wheel; check both
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:  ## Remove the environments and all build outputs
	rm -rf $(VENV) $(VLLM) $(SERVER) $(OLDEST) $(NEWEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# torch is installed first: pip then picks a CPU build where it finds one, and the later steps keep it.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vtagent needs Python 3.11 or newer; name one: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --editable '.[cli,local,samples]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(OLDEST)/.made: constraints-oldest.txt pyproject.toml tests/versions/requirements.txt
	$(CREATE) --clear $(OLDEST)
	$(OLDEST)/$(INSTALL) --constraint constraints-oldest.txt --editable '.[agents,cli,openai,postgres]' --requirement tests/versions/requirements.txt
	@touch $@

$(VLLM)/.made: tests/vllm/install.sh tests/vllm/requirements.txt tests/vllm/vllm_cpu_site.py
	PYTHON=$(PYTHON) tests/vllm/install.sh $(VLLM)
	@touch $@

$(SERVER)/.made: $(VENV)/.dev tests/server/install.sh tests/server/requirements.txt
	tests/server/install.sh $(SERVER) $(VENV)
	@touch $@
