# make demo    install into .venv, train a small network on made images, end with pictures
# make test    install likewise, run every test, print one total
# make lint    ruff and the type checker
# make bench   on a GPU: every benchmark beside PyTorch; a table, rows in bench/results/, bench/report.html
# make size    code lines by layer
# make clean   remove what the others made
#
# Settings: PYTHON=python3.12  VENV=elsewhere  WORKERS=8 (of make test)  OUT=folder (of make demo)
#           BENCH="bench/bench_step.py --peers eager,compile" (of make bench)

VENV ?= .venv
WORKERS ?= 2
OUT ?= demo
BENCH ?= bench
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: help install demo test lint bench size clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^# make/s/^# //p' Makefile

install: $(STAMP)

# The environment is made once and again only when one of these files changes.
$(STAMP): pyproject.toml constraints.txt Makefile
	@set -e; \
	new_enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! "$(BIN)/python" -c "$$new_enough" 2>/dev/null; then \
		for python in $(PYTHON) python3 python3.13 python3.12 python3.11 none; do \
			"$$python" -c "$$new_enough" 2>/dev/null && break; \
		done; \
		if [ "$$python" = none ]; then echo "make: Python 3.11 or newer must be installed; none was found" >&2; exit 1; fi; \
		echo "making $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear "$(VENV)"; \
	fi
	@echo "installing into $(VENV); the first time this downloads several packages"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 "$(BIN)/python" -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch "$@"

demo: $(STAMP)
	"$(BIN)/tritonnet" demo --out "$(OUT)"

test: $(STAMP)
	"$(BIN)/python" tests/lanes.py --workers $(WORKERS)

lint: $(STAMP)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

bench: $(STAMP)
	@"$(BIN)/python" -m pytest -q $(BENCH); code=$$?; \
	"$(BIN)/python" -m bench.report --out bench/report.html; exit $$code

size: $(STAMP)
	@"$(BIN)/python" bench/size.py

clean:
	rm -rf "$(VENV)" build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks bench/report.html
