# Everything you or CI run in this repository. `make help` lists the targets.

PYTHON ?= python3
PORT ?= 5000
STORE := sqlite:///mlflow.db
UV_VERSION := 0.13.9
# COMPOSE="python -m stack.native" controls a stack started by `make stack-native`.
COMPOSE ?= docker compose
# Those that need more than a checkout come last: a model (`make run`), a GPU, and a delivered champion.
BENCHMARKS ?= startup download inspection split evaluation augmentation training quality peers predictor prediction flow \
	$(if $(wildcard /dev/nvidia0),gpu) delivery
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
.PHONY: help install run test test-fast test-stack bench lint ui deploy worker lock clean \
	stack stack-native stack-down stack-backup stack-restore

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(INSTALLED)  ## create .venv with the packages pinned in requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet uv==$(UV_VERSION)
	$(VENV)/bin/uv pip install --python $(VENV) --compile-bytecode -r requirements.lock
	$(VENV)/bin/uv pip install --python $(VENV) --no-deps -e .
	@touch $@

run: install  ## run the pipeline, on the built-in phantom unless params.yaml says otherwise
	@python -c 'from pathlib import Path; from nerveseg.workspace.commands import mend_rwlock; mend_rwlock(Path())'
	dvc repro
	@echo
	@echo "Look at   reports/index.html  the report: open it in a browser, it works offline"
	@echo "          reports/metrics.json, reports/registration.json, reports/figures/"
	@echo "          make ui             the run, its model and the registry in MLflow; it prints the address"
	@echo "Next      source $(VENV)/bin/activate; then 'dvc repro' runs what is stale, 'dvc metrics show' prints metrics"

test: install  ## run the tests, and print the branch coverage
	OMP_NUM_THREADS=1 pytest -n 4 --dist loadfile --no-loadscope-reorder --ignore tests/stack --branch-coverage --in-memory

test-fast: install  ## run the tests that start no processes of the project: a minute
	OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal --in-memory tests/unit tests/contract/test_pipeline.py

test-stack: install  ## run the team stack's tests; they need Debian's PostgreSQL, Chromium and dicom3tools
	OMP_NUM_THREADS=1 pytest tests/stack

bench: install  ## compare with peers and limits; only an idle machine gives ratios that count (BENCHMARKS="training quality")
	@failed=; for name in $(BENCHMARKS); do \
		echo "== $$name"; python -m benchmarks.$$name || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

lint: install  ## check style, types and wording
	ruff check
	ruff format --check
	mypy
	codespell $$(git ls-files)

ui: install  ## serve the local MLflow store and registry (PORT=5000)
	@MLFLOW_TRACKING_URI=$(STORE) python -m nerveseg.mlflow_pages http://127.0.0.1:$(PORT)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ENABLE_AI_GATEWAY=false \
		mlflow ui --backend-store-uri $(STORE) --port $(PORT)

deploy worker: export PREFECT_API_URL ?= http://127.0.0.1:4200/api

deploy: install  ## register the deployments in prefect.yaml on the Prefect server (PREFECT_API_URL)
	python -m flows.deploy

worker: install  ## run deployed flows on this machine
	python -m flows.lost --watch & exec prefect worker start --pool nerveseg --type process

stack:  ## start the team stack with docker compose; writes .env with random secrets first
	$(PYTHON) -m stack.environment
	docker compose up --build --detach --wait
	docker compose ps

stack-native: install  ## start the team stack without containers, until Ctrl-C; needs PostgreSQL on this machine
	python -m stack.environment
	python -m stack.native up

stack-down:  ## stop the stack; its data are kept
	$(COMPOSE) down

stack-backup:  ## back up the running stack's databases and bucket to BACKUP, by default a new folder in backups/
	@test ! -e "$(BACKUP)" || { echo "error: $(BACKUP) exists: use a new folder for each backup"; exit 1; }
	mkdir -p "$(BACKUP)"
	$(COMPOSE) run --rm backup-databases
	$(COMPOSE) run --rm backup-bucket
	@echo "The backup is in $(BACKUP); keep .env with it."

stack-restore:  ## restore the backup in BACKUP into the running stack
	@test -d "$(BACKUP)/databases" -a -d "$(BACKUP)/bucket" || \
		{ echo "error: BACKUP=FOLDER must be a complete backup; $(BACKUP) is not"; exit 1; }
	$(COMPOSE) stop worker predictor mlflow prefect
	$(COMPOSE) run --rm restore-databases
	$(COMPOSE) run --rm restore-bucket
	$(COMPOSE) start mlflow prefect worker predictor

lock: install  ## resolve requirements.lock again
	uv pip compile --universal --python-version 3.11 --extra dev --quiet pyproject.toml -o requirements.lock

clean:  ## remove .venv and caches; data, models, reports and MLflow's store are kept
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
