# Everything the targets need is set up on first use: Python >= 3.11 and make are enough.
PYTHON ?= python3
# One version, so that every machine computes with the same torch; the packages accept the range in pyproject.toml.
TORCH ?= torch==2.13.0
# Which image `make image` builds: runtime or train, for cpu or gpu; and what else `docker build` is told (`--network host`).
TARGET ?= runtime
DEVICE ?= cpu
IMAGE ?= msr-$(TARGET)
BASE ?= python:3.11-slim-bookworm
BUILD_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Its date is that of the last complete set-up: a newer pyproject.toml, or a set-up that broke off, runs it again.
READY := $(VENV)/.ready

# Small networks gain nothing from many threads, and parallel tests would fight for the cores.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly static format image clean

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1 | \2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with every package (the other targets call it themselves)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: '$(PYTHON)' is missing or older than Python 3.11; name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "==> Setting up $(VENV): torch, MuJoCo, ONNX and the checkers; minutes the first time, nothing the next"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
	  || { echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs the package python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -qq "$(TORCH)" --editable ".[cpu,train,serve,log,sign,dev]"
	@# The policy server's peer in the tests. It asks for a numpy below 2, works with a newer one, and so comes alone.
	@$(BIN)/python -m pip install -qq --no-deps "openpi-client>=0.1.2"
	@touch $@

demo: $(READY)  ## Meta-train, export, adapt on ONNX Runtime, drive; results under runs/demo/
	@echo "==> Demo: a ring of range beams learns its symmetry, then adapts on board; results go to runs/demo/"
	@$(BIN)/python benchmarks/demo.py

static: $(READY)  ## Check style, types and import rules
	@echo "==> ruff: style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> pyright: types"
	@$(BIN)/pyright
	@echo "==> import-linter: which package may import which"
	@$(BIN)/lint-imports --no-logo

# A file's tests stay in one worker, so that they share what they build.
test: static  ## Run every check but the slow tests
	@echo "==> pytest: without the slow tests"
	@$(BIN)/pytest -m "not slow" -n 2 --dist loadfile

nightly: static  ## Run every check, the slow tests as well
	@echo "==> pytest: all tests"
	@$(BIN)/pytest -n 2 --dist loadfile

format: $(READY)  ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

image:  ## Build the robot's container image, or with TARGET=train the trainer's
	@command -v docker >/dev/null || { echo "error: 'docker' is not on PATH; install Docker to build the image" >&2; exit 1; }
	docker build $(BUILD_FLAGS) --target $(TARGET) --build-arg BASE=$(BASE) --build-arg DEVICE=$(DEVICE) --tag $(IMAGE) .

clean:  ## Remove .venv, caches and results
	rm -rf $(VENV) runs dist .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
