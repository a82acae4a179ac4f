# Everything the targets need is set up on first use: Python >= 3.11 and make are enough.
PYTHON ?= python3
# One version, so that every machine computes with the same torch; the packages accept the range in pyproject.toml.
TORCH ?= torch==2.13.0
# Which image `make image` builds: runtime or train, for cpu or gpu, for this machine's processor or another platform
# (linux/arm64); where wheels of your own are; and what else `docker build` is told (`--network host`).
TARGET ?= runtime
DEVICE ?= cpu
PLATFORM ?=
WHEELS ?= docker/wheels
IMAGE ?= msr-$(TARGET)
BASE ?= python:3.11-slim-bookworm
BUILD_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Its date is that of the last complete set-up: a newer pyproject.toml, or a set-up that broke off, runs it again.
READY := $(VENV)/.ready

# A file's tests stay in one worker, so that they share what they build. In the order of their folders: xdist would begin
# with the files of many tests, and end with one worker that waits for the long ones.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

# Small networks gain nothing from many threads, and parallel tests would fight for the cores.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help setup peers demo tables pictures docs test nightly lowest static format image sbom clean

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
	@$(BIN)/python -m pip install -qq "$(TORCH)" --editable ".[cpu,train,serve,log,data,sign,docs,dev]"
	@# The policy server's peer in the tests. It asks for a numpy below 2, works with a newer one, and so comes alone.
	@$(BIN)/python -m pip install -qq --no-deps "openpi-client>=0.1.2"
	@touch $@

# LiteRT's converter makes what it runs, from JAX and without TensorFlow. It wants an older typing-extensions than tyro
# does, works with a newer one, and so comes without what it names.
peers: $(READY)  ## Install what latency.py and updates.py time beside the runtime: JAX, LiteRT, IREE
	@$(BIN)/python -m pip install -qq --editable ".[cpu,train,peers]"
	@$(BIN)/python -m pip install -qq --no-deps "litert-converter>=0.5" "xdsl==0.28.0" "immutabledict<4.2.2" \
	  "ordered-set==4.1.0" "lark>=1.2" "backports.strenum>=1.2" "tqdm>=4"

demo: $(READY)  ## Meta-train, export, adapt on ONNX Runtime, drive; results under runs/demo/
	@echo "==> Demo: a ring of range beams learns its symmetry, then adapts on board; results go to runs/demo/"
	@$(BIN)/python benchmarks/demo.py

tables: $(READY)  ## Write every published table and number from benchmarks/results/
	@$(BIN)/python benchmarks/render.py

pictures: $(READY)  ## Draw docs/assets/ from the demo's stored result
	@$(BIN)/python benchmarks/pictures.py

docs: $(READY)  ## Build the documentation into site/
	@echo "==> Sphinx: the reference from the code, then every page; a warning fails"
	@rm -rf site  # so that no page stays that the documentation no longer has
	@$(BIN)/sphinx-build --quiet --builder html --fail-on-warning --keep-going docs site
	@echo "==> Open site/index.html"

static: $(READY)  ## Check style, types, import rules and that pages hold the stored results
	@echo "==> ruff: style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> pyright: types"
	@$(BIN)/pyright
	@echo "==> import-linter: which package may import which"
	@$(BIN)/lint-imports --no-logo
	@echo "==> pages: what the stored results say; 'make tables' writes them"
	@$(BIN)/python benchmarks/render.py --check

test: static  ## Run every check but the slow tests
	@echo "==> pytest: without the slow tests"
	@$(BIN)/pytest -m "not slow" $(PARALLEL) --durations 20

nightly: static  ## Run every check, the slow tests as well
	@echo "==> pytest: all tests"
	@$(BIN)/pytest $(PARALLEL)
	@$(MAKE) --no-print-directory lowest

# A venv of its own, with the training packages too: some of the commands' tests train.
lowest:  ## Run the robot's tests with the oldest packages that pyproject.toml allows
	@echo "==> Setting up $(VENV)-lowest: the lower bound of every package"
	@rm -rf $(VENV)-lowest
	@$(PYTHON) -m venv $(VENV)-lowest
	@$(PYTHON) tests/packaging/lower_bounds.py > $(VENV)-lowest/constraints.txt
	@$(VENV)-lowest/bin/python -m pip install -qq --constraint $(VENV)-lowest/constraints.txt \
	  --editable ".[cpu,train,serve,log,data,sign,docs,dev]"
	@$(VENV)-lowest/bin/python -m pip install -qq --no-deps "openpi-client>=0.1.2"
	@echo "==> pytest: the robot's tests"
	@$(VENV)-lowest/bin/pytest tests/runtime $(PARALLEL)

format: $(READY)  ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

image:  ## Build the robot's container image, or with TARGET=train the trainer's
	@command -v docker >/dev/null || { echo "error: 'docker' is not on PATH; install Docker to build the image" >&2; exit 1; }
	$(if $(PLATFORM),DOCKER_BUILDKIT=1) docker build $(BUILD_FLAGS) $(if $(PLATFORM),--platform $(PLATFORM)) \
	  --target $(TARGET) --build-arg BASE=$(BASE) --build-arg DEVICE=$(DEVICE) --build-arg WHEELS=$(WHEELS) --tag $(IMAGE) .

sbom:  ## Write the list of the built image's Python packages (CycloneDX) to dist/
	@command -v docker >/dev/null || { echo "error: 'docker' is not on PATH; install Docker to read the image" >&2; exit 1; }
	@mkdir -p dist
	@container=$$(docker create --pull never $(IMAGE)) \
	  || { echo "error: no image '$(IMAGE)' could be opened; build it: make image TARGET=$(TARGET)" >&2; exit 1; }; \
	  docker cp $$container:/opt/msr/sbom.cdx.json dist/$(IMAGE).cdx.json; \
	  status=$$?; docker rm $$container >/dev/null; exit $$status
	@echo "==> dist/$(IMAGE).cdx.json"

clean:  ## Remove .venv, caches and results
	rm -rf $(VENV) $(VENV)-lowest runs dist site .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
