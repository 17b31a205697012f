# One command each. `make` alone explains itself.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
HOST ?= 127.0.0.1
PARALLEL := -n 2 --dist loadscope
# Tests of the course, its site and the embedded model, of torch.compile, of what no dependency has a part in, and the long ones of
# transformers (`make lowest NEWEST=` runs them too): the oldest versions are not tried on these.
NEWEST := another_model.py arguments.py assignments.py batch.py bench.py browser.py checks.py checks_blend.py checks_joint.py checks_models.py checks_wrong.py capstone.py cli.py cluster.py compile.py counterfactual.py docs.py \
	describe.py diagrams.py edits.py exact_inversion.py export.py flow.py gallery.py inversion_damage.py inversion_files.py layout.py maps.py measured.py notebooks.py playground.py playground_edits.py playground_page.py printed.py project.py session.py slides.py stage.py study.py teaching.py toyland.py train.py transformers.py
export JUPYTER_CONFIG_DIR := $(CURDIR)/$(VENV)/jupyter-config
export JUPYTER_DATA_DIR := $(CURDIR)/$(VENV)/jupyter-data

.DEFAULT_GOAL := help
.PHONY: help setup lab studio test lowest check package train evaluate sheets notebooks docs site slides assignments clean

help: ## this list
	@echo "Prompt-to-Prompt, taught in notebooks that run on a laptop."
	@echo
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "Needs Python 3.10 or newer and make. Everything goes into $(VENV); nothing is registered outside it."

setup: $(READY) ## create .venv and install everything

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "Python's venv module is missing: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install -q --disable-pip-version-check -e ".[dev]"
	@touch $@

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

studio: $(READY) ## open the studio, a page to play with edits, on this machine
	cd notebooks && ../$(BIN)/voila studio.ipynb

check: $(READY) ## print what this machine has, with one timed edit
	$(BIN)/python -m p2p_helpers check

test: $(READY) ## run every test, the notebooks too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/playground/build.py --fetch || test -z "$$CI"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --nbval tests notebooks

notebooks: $(READY) ## run the notebooks from the top and store their outputs
	cd notebooks && ../$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.store_widget_state=False *.ipynb solutions/*.ipynb

docs: $(READY) ## build the course web site into docs/_build/html
	rm -rf docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d docs/_build/doctrees $(TAGS) . docs/_build/html
	@echo docs/_build/html/index.html

site: TAGS := -t playground
site: docs ## build the web site with the editor in it, and serve it on this machine (downloads two libraries from npm)
	$(BIN)/python docs/playground/build.py docs/_build/html/playground
	@echo "http://$(HOST):8000/playground/ until Ctrl-C"
	$(BIN)/python -m http.server --bind $(HOST) --directory docs/_build/html 8000

slides: $(READY) ## make slides with notes in runs/slides: the talk of 2 × 45 minutes, and every notebook
	$(BIN)/python -m teaching.slides

assignments: $(READY) ## write the exercises for nbgrader into runs/nbgrader, without solutions
	$(BIN)/python -m teaching.assignments

package: $(READY) ## build the wheel, install it in an empty environment elsewhere, edit a picture there
	rm -rf dist && $(BIN)/python -m build --wheel -q
	away="$$(mktemp -d)" && trap 'rm -rf "$$away"' EXIT && $(PYTHON) -m venv "$$away" && cd "$$away" \
		&& bin/pip install -q --disable-pip-version-check --no-compile "$(TORCH)" \
		&& bin/pip install -q --disable-pip-version-check --no-compile "$(CURDIR)"/dist/*.whl \
		&& bin/p2p check

lowest: ## run the tests of the package with the oldest version of every dependency but torch that pyproject.toml allows
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install -q --disable-pip-version-check --no-compile "$(TORCH)"
	.venv-lowest/bin/pip install -q --disable-pip-version-check --no-compile $$(grep -oE '"[a-z-]+>=[0-9.]+"' pyproject.toml | tr -d '"' | grep -vE '^(torch|torchmetrics|nbgrader|sphinx-revealjs|onnx|onnxruntime)>' | sed 's/>=/==/')
	.venv-lowest/bin/pip install -q --disable-pip-version-check --no-deps -e .
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest $(PARALLEL) $(addprefix --ignore tests/test_,$(NEWEST)) -k "not precision and not bfloat16 and not killed and not no_control_moves"

train: $(READY) ## go on training the embedded models (hours on a CPU); checkpoints in runs/
	for stage in diffusion decoder transformer reader ship; do $(BIN)/python -m p2p_helpers.toyland.training $$stage || exit 1; done

evaluate: $(READY) ## measure the embedded model on scenes it never saw
	$(BIN)/python -m p2p_helpers.toyland.evaluate

sheets: $(READY) ## draw the sheets on which a person judges the embedded model blindly
	$(BIN)/python -m p2p_helpers.toyland.sheets

clean: ## remove the environment and caches, keep runs/
	rm -rf $(VENV) .venv-lowest .pytest_cache .ruff_cache .mypy_cache .hypothesis dist docs/_build
