# make demo and make test need nothing but Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all faults fuzz bench lint format clean

demo: $(VENV)/.installed
	$(BIN)/facever demo

# A process for each core; a worker takes a gigabyte and a half.
PARALLEL := -n auto --maxprocesses 8

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not faults"

# Real trainings killed at random and started again.
KILLS := 200
faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m faults --kills $(KILLS)

# 10,000 random cases of each property instead of 500, and of each reader instead of 2,000.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m hypothesis --hypothesis-profile fuzz --timeout 0

bench: $(VENV)/.installed-dev
	$(BIN)/facever bench

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The marks are younger than pyproject.toml when the environment holds what it asks for.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
