# make help lists the targets. PYTHON=python3.12 picks another interpreter; EXTRA passes arguments on.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test gpu lint bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv and install the pinned versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "moex needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[train,dev]'
	@touch $@

demo: $(STAMP) ## train a small ResNet with MoEx on real handwritten digits (15 s on two CPU cores)
	$(BIN)/python train.py $(EXTRA)

test: lint ## lint, type check and run the tests, on the CPU, whose bits they compare
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(EXTRA)

gpu: $(STAMP) ## hold what a GPU computes to what the CPU computes
	$(BIN)/python -m pytest tests/test_cuda.py tests/test_metrics.py -k "cuda or gpu" $(EXTRA)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## measure speed and memory, side by side, as ratios
	$(BIN)/python scripts/benchmark.py $(EXTRA)

clean: ## remove .venv and caches; outputs/ and data/ stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
