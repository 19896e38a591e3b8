# The friendly face of the project, and the only list of its checks. `make` alone prints help.
#
#   CONFIG=FILE    the job (a YAML file or a run directory)      make all CONFIG=configs/esc10.yaml
#   NAME=...       what to measure or to try          make bench NAME=plan
#   DIR=FOLDER     your own sounds, a directory a class          make quickstart DIR=/data/sounds
#   ARGS="k=v ..." overrides and flags for the command           make shard ARGS=--dry-run
#
# make reports any failure as 2: batch scripts that want the exit codes call `python -m` directly.

CONFIG ?= configs/demo.yaml
NAME ?= ingest
ARGS ?=
DIR ?=
# Two folders of one name are two runs.
RUN ?= runs/$(shell basename "$(DIR)")-$(shell realpath "$(DIR)" | cksum | cut -c 1-4)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Where Python is told to write no bytecode, every process would compile all that it imports.
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)

.DEFAULT_GOAL := help
.PHONY: help setup test check demo quickstart all shard codebook tokenize train eval report bench torture

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo '  with CONFIG=configs/esc10.yaml (a file, or a run), ARGS="key=value ...", NAME=ingest'

setup: $(READY) ## make .venv with everything in it (the other targets do this themselves)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet $(COMPILE) --python $(BIN)/python --constraint constraints.txt --editable '.[train,cluster,dev]'
	@touch $@

test: $(READY) ## run all tests, one process a core
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

check: $(READY) ## formatting, lint, types, the arrows between packages, and docker/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	$(BIN)/kubernetes-validate --quiet --strict --kubernetes-version 1.37.0 docker/kubernetes/*.yaml
	@if command -v shellcheck > /dev/null; then shellcheck docker/slurm/*.sbatch; else \
	    echo "shellcheck is not installed: docker/slurm is not looked at"; fi

demo: $(READY) ## generate clips, run everything on them, end at scores and a report
	$(BIN)/python -m pipeline.synth data/demo
	$(BIN)/python -m pipeline all configs/demo.yaml $(ARGS)
	$(BIN)/python -m train fit configs/demo.yaml $(ARGS)
	$(BIN)/python -m train eval configs/demo.yaml $(ARGS)
	$(BIN)/python -m train report configs/demo.yaml $(ARGS)

quickstart: $(READY) ## from DIR, your sounds, a directory a class, to a trained model and its report
	@test -n "$(DIR)" || { echo "say where your sounds are: make quickstart DIR=/data/sounds" >&2; exit 2; }
	$(BIN)/python -m pipeline all configs/folder.yaml "source.root=$(DIR)" "run=$(RUN)" $(ARGS)
	$(BIN)/python -m train fit "$(RUN)" $(ARGS)
	$(BIN)/python -m train eval "$(RUN)" $(ARGS)
	$(BIN)/python -m train report "$(RUN)" $(ARGS)
	@echo 'now try it on any file:  $(BIN)/python -m train predict "$(RUN)" FILE --model bert'

all: $(READY) ## the whole job of CONFIG: pipeline all, train fit, train eval
	$(BIN)/python -m pipeline all $(CONFIG) $(ARGS)
	$(BIN)/python -m train fit $(CONFIG) $(ARGS)
	$(BIN)/python -m train eval $(CONFIG) $(ARGS)

shard: $(READY) ## decode clips into audio tars, log-mel frames and an index
	$(BIN)/python -m pipeline shard $(CONFIG) $(ARGS)

codebook: $(READY) ## find the K centroids that are the vocabulary
	$(BIN)/python -m pipeline codebook $(CONFIG) $(ARGS)

tokenize: $(READY) ## turn every clip into its tokens
	$(BIN)/python -m pipeline tokenize $(CONFIG) $(ARGS)

train: $(READY) ## train the models that CONFIG names
	$(BIN)/python -m train fit $(CONFIG) $(ARGS)

eval: $(READY) ## score the trained models
	$(BIN)/python -m train eval $(CONFIG) $(ARGS)

report: $(READY) ## write the HTML report of the trained models
	$(BIN)/python -m train report $(CONFIG) $(ARGS)

bench: $(READY) ## measure against peers: NAME=ingest, plan, cluster, stream ...
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

torture: $(READY) ## long trials of the promises: NAME=ingest, cluster, stream or train
	$(BIN)/python -m tests.torture.$(NAME) $(ARGS)
