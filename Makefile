# make demo            watch red flags being raised: a detector in a box, the listener, the page on http://127.0.0.1:8080
# make demo ARGS="..." the same with settings, such as demo.frames=200 dashboard=off
# make test            the whole test suite (installs CPU torch)
# make lint            formatting, types, import contracts
# make bench           how fast the parts are, on one core (ARGS="early_lane" for frames per second alone)

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/runtime
	@$(BIN)/triage demo $(ARGS)

test: $(STAMPS)/test
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMPS)/runtime
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "triage needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is incomplete: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: pyproject.toml | $(STAMPS)/venv
	@echo "installing triage into $(VENV) (once, a few minutes)"
	$(PIP) -e .
	@touch $@

$(STAMPS)/test: pyproject.toml | $(STAMPS)/venv
	@echo "installing triage, torch and the test tools into $(VENV) (once, some minutes)"
	$(PIP) -e '.[train,test]'
	@touch $@ $(STAMPS)/runtime

$(STAMPS)/lint: pyproject.toml | $(STAMPS)/venv
	$(PIP) -e '.[train,test,lint]'
	@touch $@ $(STAMPS)/test $(STAMPS)/runtime
