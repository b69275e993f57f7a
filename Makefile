# Vitrail's two commands: `make demo` and `make test`. Each makes .venv first where there is none. `make fuzz` tries 30,000
# broken files, where `make test` tries 1,200; FUZZ=N tries N.
PYTHON ?= python3
BIN := .venv/bin
FUZZ ?= 30000

.PHONY: demo test fuzz check clean

demo: .venv/demo
	$(BIN)/vitrail demo demo

test: .venv/test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

fuzz: .venv/test
	VITRAIL_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/test_fuzz.py

check: .venv/test
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy

.venv/demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[openvino]"
	touch $@

.venv/test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test,dev]"
	touch $@ .venv/demo

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
