# What a contributor types. `make demo` needs the base install only; `make test`, `make check` and `make fix` need the dev extra.
PYTHON ?= python3
BIN := .venv/bin
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check fix clean

demo: .venv/.base
	$(BIN)/layerctl decompose examples/photographs/coffee.png --layers 4 --psd -o demo-output --overwrite
	$(BIN)/layerctl decompose examples/designs/poster.png --psd -o demo-output --overwrite

test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/write_commands.py --check

fix: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/write_commands.py

clean:
	rm -rf .venv build dist demo-output

.venv/.base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "layerctl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

# torch first and by itself: the index of its CPU builds is asked for nothing else.
.venv/.dev: .venv/.base
	$(PIP) --no-deps --extra-index-url $(TORCH_INDEX) --retries 1 torch
	$(PIP) -e '.[dev]'
	touch $@
