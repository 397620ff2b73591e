# `make` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ENVIRONMENT = $(VENV)/.installed
RECIPE ?= recipes/shapes.yaml
# Nothing below looks for weights on the network: the small codecs and the sentence encoder come with packages.
export HF_HUB_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help quickstart release-model crossflow crossmodal test test-slow lint audit codecs judges docs bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(ENVIRONMENT): pyproject.toml constraints.txt
	@echo "== environment in $(VENV)"
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"flowbind needs Python 3.11 to 3.13, this is {sys.version.split()[0]}; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --quiet --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(ENVIRONMENT) ## the embedded world end to end: prepare, encode, fit, test, gallery
	@echo "== prepare"
	$(BIN)/flowbind prepare shapes --out data/shapes
	@echo "== encode"
	$(BIN)/flowbind encode --config $(RECIPE)
	@echo "== fit"
	$(BIN)/flowbind fit --config $(RECIPE)
	@echo "== test"
	$(BIN)/flowbind test --config $(RECIPE)

release-model: $(ENVIRONMENT) ## the quickstart's model as one file for a release, with its card: dist/flowbind-shapes.zip
	@test -f runs/shapes/model/model.json || { echo "runs/shapes/model is not there; run make quickstart first"; exit 2; }
	$(BIN)/flowbind pack runs/shapes/model dist/flowbind-shapes.zip --license apache-2.0

crossmodal: $(ENVIRONMENT) ## captions and pictures as pairs by the third method, end to end, with their gallery
	$(BIN)/flowbind prepare shapes --out data/scenes --modalities text+image+depth
	$(BIN)/flowbind encode --config recipes/crossmodal/shapes.yaml
	$(BIN)/flowbind fit    --config recipes/crossmodal/shapes.yaml
	$(BIN)/flowbind test   --config recipes/crossmodal/shapes.yaml
	$(BIN)/flowbind generate runs/crossmodal/shapes/model --count 16 --to text --to image --overwrite --out runs/crossmodal/shapes/pairs

crossflow: $(ENVIRONMENT) ## pictures from captions by the second method, end to end, with their gallery
	$(BIN)/flowbind prepare shapes --out data/scenes --modalities text+image+depth
	$(BIN)/flowbind encode --config recipes/crossflow/text_to_image.yaml
	$(BIN)/flowbind fit    --config recipes/crossflow/text_to_image.yaml
	$(BIN)/flowbind test   --config recipes/crossflow/text_to_image.yaml

test: $(ENVIRONMENT) ## the quick tests, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(ENVIRONMENT) ## the whole runs that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(ENVIRONMENT) ## ruff, and mypy on flowbind and its plugins
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(ENVIRONMENT) ## known vulnerabilities of the pinned versions; asks PyPI
	$(BIN)/uvx --python $(BIN)/python pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

codecs: $(ENVIRONMENT) ## train the small codecs again and put their weights into the plugins
	$(BIN)/flowbind prepare shapes --out data/shapes
	for name in text image audio points caption_vae; do \
	  case $$name in image|audio) precision=bf16-mixed;; *) precision=32-true;; esac; \
	  case $$name in caption_vae) place=text/weights/$$name;; *) place=$$name/weights/small;; esac; \
	  OMP_NUM_THREADS=1 $(BIN)/flowbind fit --config recipes/codecs/$$name.yaml --trainer.precision=$$precision && \
	  cp runs/codecs/$$name.safetensors modalities/flowbind_$$place.safetensors && \
	  cp runs/codecs/$$name.json modalities/flowbind_$$place.json || exit 1; \
	done
	$(BIN)/python -m flowbind_text.words data/shapes/train.jsonl --out modalities/flowbind_text/weights/words.json
	OMP_NUM_THREADS=1 $(BIN)/flowbind fit --config recipes/codecs/grid_image.yaml --trainer.precision=bf16-mixed
	for suffix in safetensors json; do \
	  cp runs/codecs/grid_image.$$suffix modalities/flowbind_image/weights/grid.$$suffix || exit 1; \
	done

judges: $(ENVIRONMENT) ## train the embedded world's judges again and put their weights into the plugins
	$(BIN)/flowbind prepare shapes --out data/shapes
	for name in image audio points; do \
	  $(BIN)/flowbind fit --config recipes/judges/$$name.yaml && \
	  cp runs/judges/$$name.safetensors modalities/flowbind_$$name/weights/judge.safetensors && \
	  cp runs/judges/$$name.json modalities/flowbind_$$name/weights/judge.json || exit 1; \
	done

docs: $(ENVIRONMENT) ## the documentation, in docs/_build/html
	$(BIN)/uv pip install --python $(BIN)/python --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx -E -W -q docs docs/_build/html

bench: $(ENVIRONMENT) ## the benchmarks of minutes; prints their tables of docs/performance.md
	for script in step data scale; do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean: ## everything made by the targets above, but the environment
	rm -rf data runs docs/_build dist
