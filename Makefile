# Two environments: .venv (sidecar, discovery, tests) and .venv-server (the model server: SGLang pins tightly).
# Every step leaves a stamp under .stamps/ and is run again when what it was made from changes.

PYTHON ?= python3.11
STAMPS := .stamps
APP := .venv/bin
SERVER := .venv-server/bin
MODEL := data/models/SmolLM2-135M-Instruct
PIP := install --quiet --disable-pip-version-check --no-input
# The project's own packages, in front of nothing: both environments hold it as an editable install.
HERE := $(PIP) --no-deps --no-build-isolation --editable .
UI_SOURCES := $(shell find ui/src ui/public ui/index.html ui/vite.config.ts ui/tsconfig.json -type f 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help setup demo test test-core test-server test-e2e test-ui lint format bench study pictures releases lock clean app-env server-env model ui system

help: ## Show what there is to do
	@awk 'BEGIN {FS = ":.*## "; print "make TARGET\n"} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: system app-env server-env model ui ## Install everything the demo needs (about 5 minutes, 4 GB, once)

demo: setup ## Model server, sidecar, Dagster and explorer on real tokens; Ctrl+C stops all (ONCE=1: run once, check, exit)
	@$(APP)/python -m demo $(if $(ONCE),--once) $(ARGS)

test: system-browser setup ## Every test, as CI runs them (about 15 minutes from nothing)
	@$(MAKE) --no-print-directory lint test-core test-server test-ui test-e2e

test-core: app-env ## Contracts, sidecar and discovery, without a model server
	$(APP)/pytest tests --ignore=tests/kernels --ignore=tests/e2e $(ARGS)

test-server: server-env model ## The capture against float64 and against Hugging Face, on the real model server
	$(SERVER)/pytest tests/kernels $(ARGS)

test-ui: node-modules ## The explorer's types, lint and unit tests
	npm --prefix ui run --silent check

test-e2e: system-browser setup ## The whole way on real tokens: demo, guide, faults, a real browser
	$(APP)/pytest tests/e2e $(ARGS)

lint: app-env ## Ruff and mypy
	$(APP)/ruff check .
	$(APP)/ruff format --check .
	$(APP)/mypy

format: app-env ## Put the Python sources into shape
	$(APP)/ruff check --fix .
	$(APP)/ruff format .

bench: setup ## Measure the claims that fit this machine (NAME=ingest for one, ARGS="--json")
	@$(APP)/python -m benchmarks $(NAME) $(ARGS)

study: setup ## Is what is shown true? Asks the demo's model, judges maps and zones, writes docs/fidelity.md (under an hour)
	@$(APP)/python -m study $(ARGS)

pictures: app-env ## Take the README's pictures from a running demo
	@$(APP)/python scripts/take_pictures.py $(ARGS)

releases: server-env ## Check the capture's hooks against the SGLang releases that it is known to fit
	$(SERVER)/python scripts/check_sglang_releases.py $(ARGS)

lock: app-env ## Resolve the lock files anew
	$(APP)/uv pip compile -q pyproject.toml --extra sidecar --extra assets --extra dev --python-version 3.11 \
	    --upgrade --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/app.lock
	$(APP)/uv pip compile -q requirements/server.in --no-deps --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/server.lock
	$(APP)/uv pip compile -q requirements/clients.in -c requirements/server.in --python-version 3.11 --upgrade \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/clients.lock

clean: ## Remove environments and builds (data/ stays)
	rm -rf .venv .venv-server $(STAMPS) ui/node_modules sidecar/attn_sidecar/static build *.egg-info

# --- the steps of setup ---------------------------------------------------------------------------------------------

.PHONY: system-browser node-modules
system:
	@scripts/system_packages.sh
system-browser:
	@scripts/system_packages.sh --browser

app-env: $(STAMPS)/app
$(STAMPS)/app: requirements/app.lock pyproject.toml
	@mkdir -p $(STAMPS)
	@command -v $(PYTHON) >/dev/null || { echo "setup: $(PYTHON) is not installed (make PYTHON=... names another 3.11)" >&2; exit 1; }
	@echo "setup: environment of the sidecar and discovery (.venv), about 1 minute"
	@test -x $(APP)/python || $(PYTHON) -m venv .venv
	@$(APP)/python -m pip $(PIP) --no-deps --require-hashes -r requirements/app.lock
	@$(APP)/python -m pip $(HERE)
	@echo "setup: compiling the classifier, about 10 seconds"
	@$(APP)/python -c "from attn_sidecar.classification import load_compiled_loops; load_compiled_loops()"
	@touch $@

server-env: $(STAMPS)/server
$(STAMPS)/server: requirements/server.lock requirements/clients.lock requirements/torch.in pyproject.toml
	@mkdir -p $(STAMPS)
	@command -v $(PYTHON) >/dev/null || { echo "setup: $(PYTHON) is not installed (make PYTHON=... names another 3.11)" >&2; exit 1; }
	@echo "setup: environment of the model server (.venv-server: torch, SGLang), about 2 minutes and 2.5 GB"
	@test -x $(SERVER)/python || $(PYTHON) -m venv .venv-server
	@$(SERVER)/python -m pip $(PIP) --no-deps --require-hashes -r requirements/server.lock
	@$(SERVER)/python -m pip $(PIP) --no-deps --require-hashes -r requirements/clients.lock
	@$(SERVER)/python -m pip $(PIP) -r requirements/torch.in
	@$(SERVER)/python -m pip $(HERE)
	@touch $@

model: server-env
	@$(SERVER)/python scripts/make_demo_model.py --output $(MODEL)

node-modules: $(STAMPS)/node-modules
$(STAMPS)/node-modules: ui/package-lock.json
	@mkdir -p $(STAMPS)
	@echo "setup: what the explorer is built with (ui/node_modules)"
	@npm --prefix ui ci --silent --no-audit --no-fund
	@touch $@

ui: $(STAMPS)/ui
$(STAMPS)/ui: $(STAMPS)/node-modules $(UI_SOURCES)
	@echo "setup: building the explorer"
	@npm --prefix ui run --silent build
	@touch $@
