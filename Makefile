# quokka-ray: `make help` lists the targets. Every target that needs .venv makes it.

PYTHON ?= python3
STUDY ?= smoke
FOLDER ?= runs/$(STUDY)
ARGS ?=

BIN := .venv/bin
# The stamp is newer than the pins once they are installed.
STAMP := .venv/.installed
# One thread a trial, and none that spins: two trials share two cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup search resume test test-all lint tensorboard export paper bench bench-laws bench-train bench-search clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  STUDY=name picks a study of search_spaces/ (now $(STUDY)); ARGS=... is passed on"

setup: $(STAMP) ## make .venv and install requirements.txt

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

search: $(STAMP) ## run the study: trials, law, recommendation (ARGS="--set corpus=data/*.txt")
	$(BIN)/quokka-ray search $(STUDY) $(ARGS)

resume: $(STAMP) ## go on with a study that was stopped or killed
	$(BIN)/quokka-ray resume $(FOLDER) $(ARGS)

test: $(STAMP) ## the fast tests
	$(BIN)/pytest -m "not slow" $(ARGS)

test-all: $(STAMP) ## every test, faults and end-to-end searches too
	$(BIN)/pytest $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tensorboard: $(STAMP) ## serve the study's pictures on this machine
	$(BIN)/quokka-ray tensorboard $(FOLDER) $(ARGS)

export: $(STAMP) ## write the study's law as tables and figures to FOLDER/export
	$(BIN)/quokka-ray export $(FOLDER) --out $(FOLDER)/export $(ARGS)

paper: $(STAMP) ## recompute the paper's laws and tables into docs/results/paper.md
	$(BIN)/python -m analysis.paper $(ARGS)

bench: $(STAMP) ## the quick start's recipe: losses, seed noise, speed against a matrix product
	$(BIN)/python benchmarks/recipe.py --corpus python-stdlib --tokenizer bytes $(ARGS)

bench-train: $(STAMP) ## how near the machine's peak a run trains (ARGS="--only step")
	$(BIN)/python benchmarks/train.py $(ARGS)

bench-search: $(STAMP) ## what a search costs beside its trials, by part (ARGS="--trials 100")
	$(BIN)/python benchmarks/search_cost.py $(ARGS)

bench-laws: $(STAMP) ## speed of fits, and coverage of intervals on real run tables
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/coverage.py $(ARGS)

clean: ## remove .venv and caches; studies in runs/ are kept
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
