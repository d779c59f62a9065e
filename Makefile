# Everything runs in $(VENV), which `setup` makes from the lock files under requirements/.
#   make serve PORT=8010          another port; every CELERITY_ variable is passed on as well
#   make setup ENGINE=cpu         choose the engine instead of looking for a GPU: cpu, gpu, none
#   make test ARGS="-k stream"    more options for the command

VENV ?= .venv
ENGINE ?= auto
# Test files at a time: most of them wait for processes most of the time.
JOBS ?= 2
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
            $$p $(NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)
PYTHON := $(PYTHON)
BIN := $(VENV)/bin
SETUP = @$(PYTHON) -m deploy.setup_env --venv $(VENV) --engine $(ENGINE)

# PORT and HOST count only where they are given to make: shells and hosts set variables of these names for other ends.
UP_ARGS := $(if $(filter command,$(firstword $(origin PORT))),--port $(PORT)) \
           $(if $(filter command,$(firstword $(origin HOST))),--host $(HOST))

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-fast lint bench faults lock clean python dev

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 20

setup: python ## make the virtual environment: vLLM for the GPU where there is one, else for the CPU
	$(SETUP)

serve: setup ## set up, then run everything on this machine until Ctrl-C
	@exec $(BIN)/celerity up $(UP_ARGS) $(ARGS)

test: dev ## the whole suite, the webapp's again under gevent, with coverage
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m tests.gevent_pytest tests/webapp
	@exec $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov --cov-append --cov-report=term:skip-covered $(ARGS)

test-fast: dev ## the unit tests only: seconds
	@exec $(BIN)/python -m pytest -q -m "not integration and not e2e" $(ARGS)

lint: dev ## style, types, the import contracts, and whether the locks belong to setup.cfg
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m deploy.lock --check

# ARGS="peers --quick" for seven minutes, "peers --only vllm", "peers --write" for docs/benchmarks.md; the other
# measurements have options of their own: ARGS=--help lists them, ARGS="--seconds 5" is the path on its own.
bench: dev ## measure Celerity beside what people would pick instead (25 min; ARGS="peers --quick": 7 min)
	@exec $(BIN)/python -m tests.bench $(or $(ARGS),peers)

faults: dev ## break the whole system in every way of docs/faults.md, and write down what was seen (30 min)
	@exec $(BIN)/python -m tests.faults $(ARGS)

lock: dev ## resolve every version anew and write the lock files
	@exec $(BIN)/python -m deploy.lock

clean: ## remove what the other commands made; models, keys and Redis data are not touched
	rm -rf $(VENV) .ci-env .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .import_linter_cache .hypothesis \
	       build dist celerity.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

dev: python
	$(SETUP) --dev

python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found: install one, or name it: PYTHON=FILE" >&2; exit 1; }
	@$(PYTHON) $(NEW_ENOUGH) || { echo "$(PYTHON) is not Python 3.11 or later: name one that is: PYTHON=FILE" >&2; exit 1; }
