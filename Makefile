# Two commands are enough on a machine with Python >= 3.10, make and gcc: `make demo` and `make test`.
# Variables: PYTHON (interpreter), TORCH (torch version), NTU60 (a real data file for the demo).
.DEFAULT_GOAL := help
PYTHON ?= python3
TORCH ?= 2.13.0
NTU60 ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(TORCH)

.PHONY: help setup demo test test-full lint images smoke bench which-gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

setup: $(STAMP)  ## make .venv and install everything into it

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)" $(if $(filter 2.3.%,$(TORCH)),'numpy<2')
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,dev]'
	@rm -f $(VENV)/.installed-* && touch $@

demo: $(STAMP)  ## the main job: data -> what fits -> training -> report (NTU60=/path/NTU60_CS.npz for a real file)
	$(BIN)/sal demo $(if $(NTU60),--data '$(NTU60)')

lint: $(STAMP)  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) lint  ## lint and all tests that need neither a GPU nor a long time
	$(BIN)/pytest -n 2 -m "not slow and not docker and not docker_torch"
	$(BIN)/pytest -m "docker and not docker_torch and not slow"

test-full: export SAL_REQUIRE_DOCKER = 1
test-full: $(STAMP) lint  ## the slow full-matrix checks too, and every image on a CPU and on the CUDA 12.1 base (root, an engine, 9 GB of disk)
	bash tools/make_local_base.sh cpu
	bash build_all_images.sh --base-image skeleton-lab-base:cpu
	$(BIN)/pytest
	bash tools/make_local_base.sh cu121
	mkdir -p .build && rm -f .build/images_cu121.csv
	SAL_IMAGE=skeleton-lab-cu121 $(BIN)/python benchmarks/images.py --base-image skeleton-lab-base:cu121 --out .build/images_cu121.csv
	SAL_IMAGE=skeleton-lab-cu121 $(BIN)/pytest -m docker_torch -k "not smoke_tests_pass and not with_compiler" tests/orchestrator/test_images.py

images: $(STAMP)  ## build every image
	bash build_all_images.sh

smoke: $(STAMP)  ## run every image's smoke test
	$(BIN)/python smoke_test_all.py

bench: $(STAMP)  ## what the tables in docs and README come from, without a GPU (many minutes; leaves benchmarks/results alone)
	$(BIN)/python benchmarks/loader_table.py
	$(BIN)/python benchmarks/networks.py
	@mkdir -p .build && rm -f .build/step_meta.csv
	$(BIN)/python benchmarks/step.py --all --device meta --out .build/step_meta.csv

which-gpu: $(STAMP)  ## the table of docs/which-gpu.md: every recipe on five sizes of card
	$(BIN)/sal plan --vram 6,8,12,16,24 --markdown docs/which-gpu.md

clean:  ## remove .venv, built files and caches (not your runs in work_dir)
	rm -rf $(VENV) .build .pytest_cache .mypy_cache .ruff_cache
