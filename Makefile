.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
NATIVE := setup.py CMakeLists.txt $(wildcard csrc/* csrc/*/* csrc/include/rmd/*)

.PHONY: help demo deploy-demo generate-demo test test-slow interpret engines browser fuzz-api fuzz lint ledger format bench results wheel docs clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(READY): pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet "torch==2.13.0" numpy "setuptools>=77" wheel "cmake>=3.26" ninja "pybind11>=2.13"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	@touch $(READY)

demo: $(READY)  ## train, evaluate and explain on built-in patients (about 5 minutes); see runs/demo/
	$(BIN)/robustmdiff demo --out runs/demo --resume

deploy-demo: $(READY)  ## take runs/demo to ONNX, a TensorRT engine, a server and a DICOM SR (4 minutes); see runs/deploy/
	$(BIN)/python -m tools.deploy_demo

generate-demo: $(READY)  ## train what generates on built-in patients, measure it, draw it (about half an hour, not timed yet); see runs/generator/evaluation/
	$(BIN)/robustmdiff generator train --config configs/generate_cohort.yaml --option train=2000 --option test=300 --out runs/generator --resume
	$(BIN)/robustmdiff generator evaluate runs/generator

test: $(READY)  ## every test that takes seconds (about 8 minutes on 2 cores)
	PYTHONUTF8=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not interpreter and not engines and not browser and not fuzz" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

interpret: $(READY)  ## the Triton kernels in Triton's interpreter (2 minutes)
	$(BIN)/python -m pytest -m interpreter tests/kernels

engines: $(READY)  ## TensorRT engines and an AOTInductor package, built without a GPU (3 minutes)
	$(BIN)/python -m pytest -m engines tests/export

browser: $(READY)  ## the page of `robustmdiff serve` in a headless Chromium, where there is one (30 seconds)
	$(BIN)/python -m pytest -m browser tests/serving

fuzz-api: $(READY)  ## the server, asked by schemathesis whatever its OpenAPI schema allows, and does not (2 minutes)
	$(BIN)/python -m pytest -m fuzz tests/serving

fuzz: $(READY)  ## the CPU kernels under AddressSanitizer and UBSan (2 minutes on 2 cores)
	$(BIN)/cmake -S . -B build/fuzz -G Ninja -DRMD_FUZZ=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja
	$(BIN)/cmake --build build/fuzz
	build/fuzz/fuzz

lint: $(READY)  ## ruff, the type checker, and the arrows between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ledger: $(READY)  ## compile the GPU kernels, without a GPU, and compare their resources with tools/ledger/ledger.json
	$(BIN)/python -m tools.ledger --check

format: $(READY)  ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure the kernels beside their peers and the machine's limits
	$(BIN)/python -m pytest benchmarks

results: $(READY)  ## every method on every data set, tuned alike (CPU hours: docs/evaluation.md); may be stopped and goes on
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.results

wheel: $(READY)  ## a wheel with the native CPU code in dist/, installed and tried in a fresh environment (5 minutes)
	$(BIN)/python -m tools.wheel

docs: $(READY)  ## build the site with the reference into site/, and run every example, command and link in it
	$(BIN)/python -m mkdocs build --quiet --strict
	PYTHONUTF8=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_docs.py

clean:  ## remove the environment, the build and the caches; runs/ stays
	rm -rf .venv build dist site *.egg-info robustmdiff/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis
