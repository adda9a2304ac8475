# A newcomer needs `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A public-domain photograph that matplotlib brings.
PORTRAIT := 'from matplotlib.cbook import get_sample_data as f; print(f("grace_hopper.jpg", asfileobj=False))'
# A drawn group, not among the images that the detector is trained on.
GROUP := 'import numpy, PIL.Image; from faceexpr.data.synthetic.drawing import draw_scene as draw; \
	PIL.Image.fromarray(draw(numpy.random.default_rng(2026), 480, 320, 6)[0]).save("demo/group.png")'
run = --trainer.logger TensorBoardLogger --trainer.logger.save_dir demo --trainer.logger.name '' --trainer.logger.version $(1)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench paper site release-check clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Make .venv and install the package with its development tools

# The stamp makes this idempotent: nothing is installed again until pyproject.toml changes.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name it with: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Not compiled: of torch's thousands of modules few are imported, and Python compiles those when they are.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	@touch $(STAMP)

demo: setup  ## Analyse a portrait with the models that ship, then train both steps on drawn images (about four minutes)
	@rm -rf demo
	$(BIN)/faceexpr analyze "$$($(BIN)/python -c $(PORTRAIT))" --out demo/portrait --pictures true
	$(BIN)/faceexpr fit --config configs/expression/synthetic_simple_cnn.yaml $(call run,classifier)
	$(BIN)/faceexpr test --ckpt_path demo/classifier $(call run,classifier_test)
	$(BIN)/faceexpr fit --config configs/detection/synthetic_light.yaml $(call run,detector)
	$(BIN)/faceexpr test --ckpt_path demo/detector $(call run,detector_test)
	$(BIN)/python -c $(GROUP)
	$(BIN)/faceexpr analyze demo/group.png --detector demo/detector --classifier demo/classifier --out demo/group --pictures true
	@echo
	@echo "a photograph, by the models that ship:          demo/portrait/pictures/grace_hopper.jpg, demo/portrait/faces.csv"
	@echo "a drawn group, by those that were trained here: demo/group/pictures/group.png, demo/group/faces.csv"
	@echo "numbers:         demo/classifier_test/metrics.json, demo/detector_test/metrics.json, and figures beside them"
	@echo "curves:          $(BIN)/tensorboard --logdir demo"

test: setup  ## Run the test suite
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow'

test-all: setup  ## Run the test suite with the slow tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

paper: setup  ## Run what is missing of the paper's experiments and write docs/paper.md (DATA=folder OUT=folder)
	$(BIN)/python -m experiments.paper $(if $(DATA),--data $(DATA) --out $(OUT),--page_only true)

site: setup  ## Build the site into site/, and refuse links that lead nowhere
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

release-check: setup  ## Build sdist and wheel, and try the wheel in an environment and a folder of its own
	rm -rf dist release && mkdir release
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile build
	@# The wheel is built from the sdist.
	$(BIN)/python -m build
	tar tzf dist/*.tar.gz | sed 's,^[^/]*/,,' | sort > release/packed
	git ls-files | sort | comm -23 - release/packed > release/missing
	@test ! -s release/missing || { echo "not in the sdist:"; cat release/missing; exit 1; }
	$(PYTHON) -m venv release/venv
	release/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile dist/*.whl
	cd release && venv/bin/faceexpr analyze "$$(venv/bin/python -c $(PORTRAIT))"
	cd release && venv/bin/faceexpr init synthetic_simple_cnn
	cd release && venv/bin/faceexpr fit --config synthetic_simple_cnn --trainer.max_epochs 1
	cd release && venv/bin/faceexpr test --ckpt_path last
	cd release && venv/bin/faceexpr runs

bench: setup  ## Run the benchmarks; each prints ratios measured in one run
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## Remove what was built, but not your runs
	rm -rf $(VENV) build dist release site *.egg-info .mypy_cache .ruff_cache .pytest_cache
