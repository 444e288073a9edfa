# Two commands do all: `make run` (set-up, then the chat page) and `make test` (set-up, then the whole suite).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
HOST   ?= 127.0.0.1
PORT   ?= 7860
DATA   ?= ../shared/data
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run install weights test test-fast lint types contracts cov eval wheel audit sbom clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints/locked.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vlmforensics needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints/locked.txt -e ".[all]"
	@touch $(STAMP)

install: $(STAMP)  ## .venv with everything, and the vlmforensics command in it

weights: install  ## the compact model's base weights: fetched, verified, converted, cached
	$(BIN)/vlmforensics models pull compact

run: weights  ## set-up, then the chat page on http://127.0.0.1:7860
	$(BIN)/vlmforensics ui --host $(HOST) --port $(PORT)

test: weights  ## set-up, then the whole suite
	$(BIN)/python -m pytest

test-fast: install  ## what runs in two minutes, while working
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser and not ray and not model"

lint: install  ## style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install  ## mypy on the installed shape of the package
	$(BIN)/python -m pytest tests/house -k types

contracts: install  ## which room may import which
	$(BIN)/python -m pytest tests/house -k contracts

eval: weights  ## every figure of README and model card from DATA, two processes; goes on where it stopped
	@pids=; for part in 0 1; do OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 sh -ec ' \
	  $(BIN)/vlmforensics finetune prepare --data $(DATA) --cache runs/features --part $$0/2 --variant equalised; \
	  $(BIN)/vlmforensics finetune prepare --data $(DATA) --cache runs/features --part $$0/2 --feature whole \
	    --variant augmented-1 --variant made-equalised; \
	  $(BIN)/vlmforensics finetune prepare --data $(DATA) --cache runs/features --part $$0/2 --chosen --variant made-1; \
	  $(BIN)/vlmforensics finetune observe --data $(DATA) --out runs/compact/observed-$$0.jsonl --part $$0/2 \
	    --witnesses blending --variant augmented-1 --variant equalised --variant made-1; \
	  $(BIN)/vlmforensics finetune observe --data $(DATA) --out runs/compact/observed-rest-$$0.jsonl --part $$0/2 \
	    --witnesses signals --rest --variant augmented-1 --variant equalised' $$part & pids="$$pids $$!"; done; \
	for pid in $$pids; do wait $$pid || exit 1; done
	$(BIN)/vlmforensics finetune experts --data $(DATA) --cache runs/features --work runs/compact --no-ship
	$(BIN)/vlmforensics eval card --data $(DATA)

wheel: install  ## build the wheel, install it in a fresh environment, smoke run
	$(BIN)/python -m pip wheel --no-deps -w dist .
	rm -rf build/smoke && $(PYTHON) -m venv --system-site-packages build/smoke
	build/smoke/bin/python -m pip install --no-deps --force-reinstall dist/vlmforensics-*.whl
	cd build && ./smoke/bin/vlmforensics --version

build/tools/.installed: constraints/locked.txt
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --disable-pip-version-check -q "pip-audit>=2.7" "cyclonedx-bom>=5" || \
	  { echo "pip-audit and cyclonedx-bom can't be installed: is the package index reachable?"; exit 1; }
	@touch $@

audit: install build/tools/.installed  ## installed packages against the advisory databases (needs the network)
	build/tools/bin/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  --skip-editable --progress-spinner off $(AUDIT_ARGS) || \
	  { echo "Findings are listed above. Where it says that a service can't be reached, no audit was made: run it again"; \
	    echo "with the network on, or name another with AUDIT_ARGS=\"--vulnerability-service osv --osv-url URL\"."; exit 1; }

sbom: install build/tools/.installed  ## bill of materials of .venv as CycloneDX, build/sbom.json
	build/tools/bin/cyclonedx-py environment --output-format JSON --output-file build/sbom.json $(BIN)/python
	@echo "wrote build/sbom.json"

clean:  ## remove what was built; weights stay in the user's cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
