# Two commands do all set-up: `make demo` (or `make demo SERVE=0`) and `make test`.
PYTHON ?= python3
VENV ?= .venv
SERVE ?= 1
BIN := $(VENV)/bin
# What `make test` runs: files or folders of tests, all when empty.
TESTS ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 30

.PHONY: install demo test test-all lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/diffviews demo --serve $(if $(filter 0 false no,$(SERVE)),false,true)

# Chromium and PostgreSQL come by apt-get where that may be; where they do not, their tests are skipped.
test test-all: $(VENV)/.installed-dev
	$(BIN)/python -m tests.programs
	$(PYTEST) -m "$(if $(filter test-all,$@),,not slow and not gpu)" $(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info
