# Everything that a person or CI does with the repository. `make help` lists it.

PYTHON ?= python3
PORT ?= 5000
# MLflow's pages for training; it opens those for language models by itself.
UI := http://127.0.0.1:$(PORT)/\#/experiments?workflowType=machine_learning
UV_VERSION := 0.13.9
# COMPOSE="python -m stack.native" speaks to a stack that `make stack-native` brought up.
COMPOSE ?= docker compose
BACKUP ?= backups/$(shell date -u +%Y%m%d-%H%M%S)
stack-backup stack-restore: override export BACKUP := $(abspath $(BACKUP))
stack-backup stack-restore: export BACKUP_USER = $(shell id -u):$(shell id -g)
VENV := .venv
INSTALLED := $(VENV)/.installed

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false

.DEFAULT_GOAL := help
.PHONY: help install run test test-stack lint ui deploy worker lock clean \
	stack stack-native stack-down stack-backup stack-restore

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(INSTALLED)  ## create .venv with what requirements.lock pins

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet uv==$(UV_VERSION)
	$(VENV)/bin/uv pip install --python $(VENV) --compile-bytecode -r requirements.lock
	$(VENV)/bin/uv pip install --python $(VENV) --no-deps -e .
	@touch $@

run: install  ## run the pipeline, on the built-in phantom unless params.yaml says otherwise
	dvc repro
	@echo
	@echo "Look at   reports/index.html the report: open it in a browser, it needs no network"
	@echo "          reports/metrics.json, reports/registration.json, reports/figures/"
	@echo "          make ui            the run, its model and the registry in MLflow: $(UI)"
	@echo "Go on     source $(VENV)/bin/activate; then 'dvc repro' runs what is stale, 'dvc metrics show' prints the figures"

test: install  ## run the tests
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --ignore tests/stack

test-stack: install  ## run the tests of the team stack; they need Debian's PostgreSQL and Chromium
	OMP_NUM_THREADS=1 pytest tests/stack

lint: install  ## check style and types
	ruff check
	ruff format --check
	mypy

ui: install  ## serve the embedded MLflow and its registry (PORT=5000)
	@echo "$(UI)"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///mlflow.db --port $(PORT)

deploy worker: export PREFECT_API_URL ?= http://127.0.0.1:4200/api

deploy: install  ## register the deployments of prefect.yaml on the Prefect server (PREFECT_API_URL)
	python -m flows.deploy

worker: install  ## run deployed flows on this machine
	python -m flows.lost
	prefect worker start --pool nerveseg --type process

stack:  ## bring up the team stack by docker compose; it writes .env with random secrets first
	$(PYTHON) -m stack.environment
	docker compose up --build --detach --wait
	docker compose ps

stack-native: install  ## bring up the same without containers, until Ctrl-C; needs PostgreSQL on this machine
	python -m stack.environment
	python -m stack.native up

stack-down:  ## end the stack; its data stay
	$(COMPOSE) down

stack-backup:  ## copy databases and bucket of the running stack to BACKUP, a new folder below backups/ by default
	@test ! -e "$(BACKUP)" || { echo "error: $(BACKUP) exists: give each backup its own folder"; exit 1; }
	mkdir -p "$(BACKUP)"
	$(COMPOSE) run --rm backup-databases
	$(COMPOSE) run --rm backup-bucket
	@echo "The backup is $(BACKUP); keep .env with it."

stack-restore:  ## put the backup in BACKUP back into the running stack
	@test -d "$(BACKUP)/databases" -a -d "$(BACKUP)/bucket" || \
		{ echo "error: BACKUP=FOLDER has to name a whole backup; $(BACKUP) is none"; exit 1; }
	$(COMPOSE) stop worker predictor mlflow prefect
	$(COMPOSE) run --rm restore-databases
	$(COMPOSE) run --rm restore-bucket
	$(COMPOSE) start mlflow prefect worker predictor

lock: install  ## solve requirements.lock anew
	uv pip compile --universal --python-version 3.11 --extra dev --quiet pyproject.toml -o requirements.lock

clean:  ## remove .venv and caches; data, models, reports and MLflow's store stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
