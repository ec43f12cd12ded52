# Every target sets up what it needs: on a fresh machine, start with `make demo`.

PYTHON ?= python3
WORKERS ?= 2
SEEDS ?= 1-200
AT_LEAST ?= 100
WITH ?=
PLANT ?= all
BENCH ?=
BUF_VERSION := 1.75.0

PY := .venv/bin/python
READY := .venv/.ready
BUF := node_modules/.bin/buf
BUF_READY := node_modules/.buf-$(BUF_VERSION)
BASELINE := proto/baseline.binpb

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help setup demo test simulate simulate-met simulate-planted lint format check check-all proto proto-baseline bench bench-micro clean
.NOTPARALLEL:

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(READY) ## Make .venv with all that the other targets need

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "setup: Syncline needs Python 3.11 or newer, and $(PYTHON) is not." >&2; \
	  echo "setup: name another one, as in: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "setup: making .venv with the packages of constraints.txt"
	@$(PY) -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(PY) -m pip install --quiet --constraint constraints.txt pip
	@$(PY) -m pip install --quiet --constraint constraints.txt \
	  --build-constraint constraints.txt --editable . --group dev
	@touch $@
	@echo "setup: done"

$(BUF_READY):
	@command -v npm >/dev/null || { \
	  echo "lint: buf, which checks the wire, comes by npm, and npm is not here." >&2; \
	  echo "lint: on Debian: apt-get install npm" >&2; exit 1; }
	@echo "lint: fetching buf $(BUF_VERSION) into node_modules"
	@npm install --silent --no-save --no-package-lock --prefix . @bufbuild/buf@$(BUF_VERSION)
	@touch $@

demo: $(READY) ## Show what Syncline does, on this machine, with real processes
	@.venv/bin/syncline demo

test: $(READY) ## Run the tests
	@$(PY) -m pytest -n $(WORKERS)

simulate: $(READY) ## Run simulated worlds: make simulate SEEDS=1-1000
	@$(PY) tools/simulate.py $(SEEDS) --workers $(WORKERS) $(WITH)

simulate-met: $(READY) ## The same, and fail where a kind of trouble was met too seldom: AT_LEAST=100
	@$(PY) tools/simulate.py $(SEEDS) --workers $(WORKERS) --at-least $(AT_LEAST) $(WITH)

simulate-planted: $(READY) ## Plant bugs, and find each of them: make simulate-planted PLANT=all
	@$(PY) tools/simulate.py 1-500 --workers $(WORKERS) --plant $(PLANT)

lint: $(READY) $(BUF_READY) ## Check format, style, types, layers and the wire
	@$(PY) -m ruff format --check
	@$(PY) -m ruff check
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo
	@$(PY) tools/generate_proto.py --check
	@$(BUF) lint proto
	@$(BUF) breaking proto --against $(BASELINE)
	@echo "lint: all is well"

format: $(READY) ## Bring the code into the house's format
	@$(PY) -m ruff format
	@$(PY) -m ruff check --fix

check: lint test ## Run lint and test, as CI does

check-all: lint ## Run lint and every test, the slow ones too
	@$(PY) -m pytest -n $(WORKERS) -m "slow or not slow" -o faulthandler_timeout=1800

proto: $(READY) ## Generate the Python code of proto/ again
	@$(PY) tools/generate_proto.py

proto-baseline: $(BUF_READY) ## Take the wire of now as the one not to break
	@$(BUF) build proto --exclude-source-info --output $(BASELINE)

bench: $(READY) ## Measure beside the peers, and write the results: make bench BENCH="--rows edit"
	@$(PY) benchmarks/run.py $(BENCH)

bench-micro: $(READY) ## Measure the hot paths alone, seconds each
	@$(PY) benchmarks/micro.py $(BENCH)

clean: ## Remove all that make made
	@rm -rf .venv node_modules dist build .hypothesis \
	  .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
