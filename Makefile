# Every target sets up what it needs: Python 3.11 or newer and make are enough.
PYTHON ?= python3
PYTEST_ARGS ?=
SECONDS ?= 10
COUNT ?= 150
SEED ?= 0
FILES ?=
SEEDS ?= 1000
FIRST ?= 1

# The tests start hundreds of processes. Without compiled modules each takes half a second longer.
unexport PYTHONDONTWRITEBYTECODE

mutants: SECONDS = 1800

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo demo-cluster test test-long simulate check mutants format bench stress docs lock clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## watch a workflow survive kill -9
	@$(BIN)/python examples/demo.py

demo-cluster: $(READY) ## watch three nodes on PostgreSQL, of which one is killed
	@$(BIN)/python examples/cluster_demo.py

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n 3 $(PYTEST_ARGS)

test-long: $(READY) ## run the long tests, PERDURE_LONG_SECONDS=30 each
	$(BIN)/python -m pytest -m long -n 3 $(PYTEST_ARGS)

simulate: $(READY) ## random work on nodes of which any may fail, SEEDS=1000 of it from FIRST=1 on
	$(BIN)/python -m perdure.simulation --first $(FIRST) --seeds $(SEEDS) --processes 2 --shrink

check: $(READY) ## format, lint, types, layers, style: everything that needs no run of the program
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src $(wildcard tests/typing)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest tests/test_tidy.py
	$(BIN)/python scripts/shape.py

mutants: $(READY) ## break the kernel, FILES= COUNT=150 SEED=0 for 1800 SECONDS, and list what no test notices
	$(BIN)/python scripts/mutants.py --count $(COUNT) --seed $(SEED) --seconds $(SECONDS) $(if $(FILES),--files $(FILES))

format: $(READY) ## write the generated classes, format the code, apply the fixes that are safe
	$(BIN)/python scripts/generate_sync.py
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(READY) ## measure, beside the peers and the limits of the machine
	$(BIN)/python -m benchmarks

stress: $(READY) ## put load on each store, SECONDS=10 a cell; results go to .bench/stress.jsonl
	@mkdir -p .bench; echo '*' > .bench/.gitignore; failed=0; \
	for shape in parallel payload; do for store in '--store memory://' ''; do \
	  $(BIN)/perdure bench $$shape $$store --seconds $(SECONDS) --keep .bench/stress.jsonl || failed=1; echo; \
	done; done; \
	$(BIN)/perdure bench --compare .bench/stress.jsonl; exit $$failed

docs: $(READY) ## build the pages into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html is the first page ($(BIN)/python -m http.server --directory site: with search)"

lock: ## compile requirements/dev.txt anew (needs uv on the PATH)
	uv pip compile pyproject.toml --group dev --extra postgres --extra uvloop --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet --output-file requirements/dev.txt

clean: ## remove everything that the other targets made
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Perdure needs Python 3.11 or newer; '$(PYTHON)' is not ($$($(PYTHON) --version 2>&1))." >&2; \
	  echo "Name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
