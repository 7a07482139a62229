# make install   virtual environment in .venv with everything, versions as in constraints.txt
# make demo      Lipschitz bounds of a small network, their certificate, and its check
# make test      all tests
# make lint      ruff and mypy
# make format    let ruff rewrite the sources
# make docs      the documentation site, into site/; warnings are errors
# make pictures  draw the site's diagrams again (npm, chromium and chromedriver are needed, and a network)
# make clean     remove what these targets made
#
# Variables: PYTHON (interpreter to start from), TORCH (what to ask pip for), JOBS (test processes),
# PYTEST_ARGS (passed on to pytest).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
JOBS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
STAMP := $(VENV)/.installed

NETWORK := vnnlib_specs/digits_32-32.onnx
CERTIFICATE := build/digits_32-32.certificate.json

.PHONY: install demo test lint format docs pictures clean
.DELETE_ON_ERROR:

install: $(STAMP)

# torch first and by its version: what asks for it later is content with what it finds. auto-lirpa and onnx2torch come
# last and without their dependencies, which would replace torch (docs/install.md).
$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) '$(TORCH)' numpy
	$(PIP) --editable '.[dev]'
	@$(PIP) mosek || echo 'no package mosek here: tests of its files will be skipped (nothing else needs it)'
	$(PIP) --no-deps auto-lirpa onnx2torch
	$(BIN)/python -c 'import geolip_lirpa.lirpa, torch; print("torch", torch.__version__, "- auto_LiRPA", geolip_lirpa.lirpa.host_version())'
	touch $@

demo: install
	mkdir -p $(dir $(CERTIFICATE))
	$(BIN)/geolip-lirpa lipschitz $(NETWORK) --norm inf --certificate $(CERTIFICATE)
	$(BIN)/geolip-lirpa check $(CERTIFICATE) $(NETWORK)

# JOBS processes with one thread each; tests that need more cores do not exist
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# loads nothing from a network; `python -m` puts this folder on the path, where the hooks are
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo 'site/index.html'

pictures: install
	SE_AVOID_STATS=true $(BIN)/python site_build/pictures.py

clean:
	rm -rf $(VENV) build site dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find geolip_lirpa tests vnnlib_specs -name __pycache__ -prune -exec rm -rf {} +
