# Vitrail's two commands: `make demo` and `make test`. Each makes .venv first where there is none. `make check` lints,
# `make docs` builds the site, `make package` installs wheel and sdist in an empty folder and runs them, `make coverage`
# says which lines no test reaches. `make fuzz` tries 30,000 broken files, where `make test` tries 900; FUZZ=N tries N.
# `make viewer` fetches what the viewer's page takes from npm, where an install had no network.
PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE = # what was compiled once is kept: the tests start hundreds of processes
BIN := .venv/bin
FUZZ ?= 30000
TESTS := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test coverage fuzz check docs package viewer clean

demo: .venv/demo
	$(BIN)/vitrail demo demo

test: .venv/test
	$(TESTS)

coverage: .venv/test
	$(TESTS) --cov=vitrail --cov-report=term-missing:skip-covered --cov-fail-under=95

fuzz: .venv/test
	VITRAIL_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/test_fuzz.py

check: .venv/test
	$(BIN)/ruff format --check src tests bench docs release
	$(BIN)/ruff check src tests bench docs release
	$(BIN)/mypy

docs: .venv/docs
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

package: .venv/test
	bash .ci/package $(BIN)/python

viewer: .venv/demo
	VITRAIL_VIEWER=required $(BIN)/python -m pip install -q --no-deps -e .

.venv/demo: pyproject.toml constraints.txt frontend/package-lock.json
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[openvino,viewer]"
	touch $@

.venv/test: pyproject.toml constraints.txt frontend/package-lock.json
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test,dev]"
	# axe-core, for the tests of the page alone
	command -v npm > /dev/null && npm ci --prefix frontend --ignore-scripts --silent || true
	touch $@ .venv/demo

.venv/docs: .venv/test
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf .venv demo docs/_build docs/_generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
