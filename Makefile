# A newcomer needs `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A public-domain photograph that matplotlib ships, and the face in it.
PORTRAIT := 'from matplotlib.cbook import get_sample_data as f; print(f("grace_hopper.jpg", asfileobj=False))'
PORTRAIT_FACE := [160, 125, 370, 335]
run = --trainer.logger TensorBoardLogger --trainer.logger.save_dir demo --trainer.logger.name '' --trainer.logger.version $(1)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Make .venv and install the package with its development tools

# The stamp makes this idempotent: nothing is installed again until pyproject.toml changes.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name it with: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: setup  ## Train, test and predict on embedded data (about two minutes)
	@rm -rf demo
	$(BIN)/faceexpr fit --config configs/expression/synthetic_simple_cnn.yaml $(call run,fit)
	$(BIN)/faceexpr test --ckpt_path demo/fit $(call run,test)
	$(BIN)/faceexpr predict --ckpt_path demo/fit $(call run,predict) --data FaceImages \
		--data.paths "['$$($(BIN)/python -c $(PORTRAIT))']" --data.box '$(PORTRAIT_FACE)'
	@echo
	@echo "figures:      demo/fit/figures, demo/test/figures"
	@echo "numbers:      demo/test/metrics.json"
	@echo "predictions:  demo/predict/predictions.csv (a portrait by a network that has only seen drawings)"
	@echo "curves:       $(BIN)/tensorboard --logdir demo"

test: setup  ## Run the test suite
	$(BIN)/python -m pytest -q -m 'not slow'

test-all: setup  ## Run the test suite with the slow tests
	$(BIN)/python -m pytest -q

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## Run the benchmarks; each prints ratios measured in one run
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## Remove what was built, but not your runs
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
