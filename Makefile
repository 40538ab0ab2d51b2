# `make` prints the targets. Nothing needs to be activated: every target makes .venv first when it is missing.
# ARGS="..." passes overrides through:  make train ARGS="transfer=fine_tune backbone.weights=glyphs-small_cnn"

PYTHON ?= python3
VENV := .venv
GRAFT := $(VENV)/bin/graft
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
ARGS ?=
ROOT ?= runs
# Tests run two at a time, one torch thread each.
TEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal -q
# Examples in docstrings have a process of their own: modules are imported while pytest holds the output.
EXAMPLES := OMP_NUM_THREADS=1 $(RUN) -m pytest -q src/graft

.DEFAULT_GOAL := help
.PHONY: help install demo pretrain train sweep compare ui test test-all test-servers test-browser screenshots check format bench docs clean

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(READY)  ## make .venv and install graft with what its development needs

$(READY): pyproject.toml
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes the first time (torch is large)."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

demo: $(READY)  ## pretrain on rendered letters, sweep over real digits, compare: an answer within 6 minutes
	@$(GRAFT) pretrain paths.root=$(ROOT)
	@$(GRAFT) train experiment=digits_transfer paths.root=$(ROOT) $(ARGS)
	@$(GRAFT) compare digits_transfer paths.root=$(ROOT)

pretrain: $(READY)  ## train a source model and write its weights bundle
	@$(GRAFT) pretrain paths.root=$(ROOT) $(ARGS)

train: $(READY)  ## one run: make train ARGS="transfer=fine_tune ..."
	@$(GRAFT) train paths.root=$(ROOT) $(ARGS)

sweep: $(READY)  ## freeze depth x learning rate x backbone on the digits, then compare: about 20 minutes
	@$(GRAFT) pretrain paths.root=$(ROOT)
	@$(GRAFT) pretrain paths.root=$(ROOT) backbone=resnet18 data.image_size=32 trainer.epochs=3
	@$(GRAFT) train experiment=depth_rate_backbone paths.root=$(ROOT) $(ARGS)
	@$(GRAFT) compare depth_rate_backbone paths.root=$(ROOT)

compare: $(READY)  ## rank the arms, say the verdict, write the report: make compare ARGS=digits_transfer
	@$(GRAFT) compare paths.root=$(ROOT) $(ARGS)

ui: $(READY)  ## open the MLflow dashboard on the same store
	@$(GRAFT) ui paths.root=$(ROOT) $(ARGS)

test: $(READY)  ## the test suite, under 8 minutes on two cores
	@$(TEST) -m "not full and not servers and not browser" $(ARGS)
	@$(EXAMPLES)

test-all: $(READY)  ## the test suite at full size
	@$(TEST) -m "not servers and not browser" $(ARGS)
	@$(EXAMPLES)

test-servers: $(READY)  ## against a real MLflow server and PostgreSQL (apt-get install postgresql)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[postgres]'
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q tests/servers -m servers $(ARGS)

test-browser: $(READY)  ## report and dashboard in headless Chromium (apt-get install chromium)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]'
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q tests/browser -m browser $(ARGS)

screenshots: $(READY)  ## take the pictures of the README anew, after `make demo` (needs chromium)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]'
	@$(RUN) docs/screenshots.py $(ROOT) digits_transfer

check: $(READY)  ## format, lint, types, architecture
	@$(RUN) -m ruff format --check src tests benchmarks docs
	@$(RUN) -m ruff check src tests benchmarks docs
	@$(RUN) -m mypy
	@$(RUN) -m pytest -q tests/test_architecture.py

format: $(READY)  ## let ruff format and sort
	@$(RUN) -m ruff format src tests benchmarks
	@$(RUN) -m ruff check --fix --quiet src tests benchmarks

bench: $(READY)  ## measure what the README claims; IMAGES=<folder of small images> for all of it
	@$(RUN) benchmarks/overhead.py
	@$(RUN) benchmarks/planning.py
	@$(RUN) benchmarks/coverage.py
	@test -z "$(IMAGES)" || $(RUN) benchmarks/near_duplicates.py $(IMAGES)
	@test -z "$(IMAGES)" || $(RUN) benchmarks/loading.py $(IMAGES)
	@test -z "$(IMAGES)" || $(RUN) benchmarks/reuse.py $(IMAGES)

docs: $(READY)  ## write the generated tables of docs/ and of the model registry anew
	@$(RUN) -m graft.model.table --docs > docs/stages.md
	@$(RUN) -m graft.model.table --models > src/graft/config/torchvision_models.json.new
	@mv src/graft/config/torchvision_models.json.new src/graft/config/torchvision_models.json

clean:  ## remove caches and build leftovers; runs and .venv stay
	@rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
