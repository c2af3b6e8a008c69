# Everything a fresh machine with Python >= 3.11, pip and make needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
LOWEST := .venv-lowest
NEWEST := .venv-newest
NEWEST_PYTHON ?= $(PYTHON)

# the quick ones; without --solvers, all
DEMO := itd,aid,stocbio,sustain,fsla,borep,soba,saba,masoba,amigo,f2sa

# Where annotations have shapes.
SHAPES_TESTS := tests/test_oracles.py tests/test_problem.py tests/test_episodes.py tests/test_steps.py \
	tests/test_sampling.py tests/test_cost.py tests/hypergradients tests/diagnostics tests/solvers/test_listings.py \
	tests/tasks/networks

# What changes with the dependencies: numbers and dtypes, compiled programs, scikit-learn, tables, the command line.
VERSIONS_TESTS := tests/test_steps.py tests/test_trees.py tests/test_oracles.py tests/test_checks.py tests/test_import.py \
	tests/test_cli.py tests/hypergradients/test_adjoint.py tests/solvers/test_saba.py tests/run/test_sweep.py \
	tests/estimators/test_penalized.py tests/clean tests/columns

.PHONY: demo test test-slow test-lowest test-newest test-optimized test-shapes coverage lint docs tables clean

demo: $(VENV)/.demo
	$(BIN)/bilevel compare cleaning --solvers $(DEMO) --out runs/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -q

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -q -m slow

# old releases warn of newer ones that they use
test-lowest: $(LOWEST)/.test
	$(LOWEST)/bin/python -m pytest -n 2 -q -W default::DeprecationWarning $(VERSIONS_TESTS)

# NEWEST_PYTHON=python3.13 for another Python; the newest JAX needs a newer one than the oldest that the package allows
test-newest: $(NEWEST)/.test
	$(NEWEST)/bin/python -m pytest -n 2 -q -W default::DeprecationWarning $(VERSIONS_TESTS)

# the listings with x per row as users run them, with XLA's optimizations, which the other tests do without
test-optimized: $(VENV)/.test
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 -q tests/solvers/test_listings.py tests/solvers/test_recursive.py -k "listing and row"

# a part of the tests, with the types and shapes of the package's annotations checked at run time; of the listings, those
# with x per row. One of the tests left out looks at the frame that warns, and the others pass other types.
test-shapes: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m pytest -n 2 -q -p shapes $(SHAPES_TESTS) \
		-k "not dense and not test_a_negative_curvature_is_warned_of_once and not test_per_row_is_true_or_false \
		and not test_a_batch_size_of_numpy_is_an_integer"

coverage: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -q --cov=bilevel --cov-report=term:skip-covered

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/pyright

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir runs/site

tables: $(VENV)/.test
	$(BIN)/python docs/build_tables.py
	$(BIN)/python docs/build_broken.py
	$(BIN)/python docs/build_reproduction.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("bilevel needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# one stamp per set of dependencies; pyproject.toml or the constraints make it stale
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[compare]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[test]'
	touch $@

$(VENV)/.lint: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[test,lint]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[docs]'
	touch $@

# each direct dependency in the oldest version that pyproject.toml allows
$(LOWEST)/.test: pyproject.toml | $(BIN)/python
	$(INSTALL) uv
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[test]'
	touch $@

# each dependency in the newest version that there is
$(NEWEST)/.test: pyproject.toml | $(BIN)/python
	$(INSTALL) uv
	$(NEWEST_PYTHON) -m venv --clear $(NEWEST)
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(NEWEST) runs .pytest_cache .ruff_cache
