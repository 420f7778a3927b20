# `make demo` and `make test` work on a fresh machine: both make .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# a process for each core and one thread in each; a file's tests share what they trained
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

KERNELS := avx2
ISA     := $(if $(filter default,$(KERNELS)),SSE41,AVX2)

.PHONY: help demo test test-all numbers check format bench smoke constraints

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)   ## train, score and show SIMGAN on drawn birds: no data, no GPU, no account
	$(BIN)/python run.py model=simgan data=cub preset=toy

test: $(READY)   ## the fast tests
	$(PYTEST)

test-all: $(READY) ## the slow tests too (GPU tests are skipped without one)
	$(PYTEST) -m ""

numbers: $(READY) ## the numerical tests by other kernels: KERNELS=avx2 or default, as on another processor
	ATEN_CPU_CAPABILITY=$(KERNELS) ONEDNN_MAX_CPU_ISA=$(ISA) $(PYTEST) -m "numerical and not slow and not gpu"

check: $(READY)  ## format, lint, types, fast tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: $(READY) ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

smoke: $(READY)  ## one batch through training, checkpoint and evaluation
	$(BIN)/python run.py model=simgan data=cub preset=fast

bench: $(READY)  ## speed of the store, the step and the metrics; writes docs/performance.md
	$(BIN)/python -m tests.bench

constraints: $(READY) ## pin what is installed now
	(echo '# Versions that were tested together; pip install -c constraints.txt. Written by `make constraints`.'; \
	 $(BIN)/python -m pip freeze --exclude-editable) > constraints.txt
