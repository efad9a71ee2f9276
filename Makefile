# Needs Python 3.11 or 3.12 and make. .venv is made when missing, and completed when pyproject.toml or
# constraints.txt are newer than it; nothing is installed anywhere else.
# Linux without a GPU: take the CPU build of torch, which is far smaller than the CUDA build:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3 || echo python3.11)
TORCH_INDEX ?=
TESTS ?=
WORKERS ?= 2
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# onnxruntime 1.31 reports its use to its maker unless this is set before its import.
export ORT_DISABLE_TELEMETRY := 1

# What pyproject.toml lists in `export` and `dev`. The extra `engines` (openvino) is left out:
# it installs with these constraints, but pulls openvino-telemetry, and importing openvino outside
# our code then writes an id into the home folder and reports the use to Google Analytics.
TEST_PACKAGES := onnx onnxscript onnxruntime \
	pytest pytest-timeout pytest-xdist hypothesis jsonschema einops ruff mypy import-linter

.PHONY: demo test test-all test-clients lint

demo: .venv/.demo
	.venv/bin/python -m perforated_monai demo

# The default suite: offline, minutes on two cores. A part of it: make test TESTS=tests/data
# Two processes share it, a file at a time, so that what a file prepares is prepared once. Each
# takes one thread: the sums of two runs that are compared have one order, and the cores are busy.
test: .venv/.installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(WORKERS) --dist loadfile $(TESTS)

# The default suite and what is marked slow.
test-all: .venv/.all
	.venv/bin/python -m pytest -q -m "not clients"

# MONAI Label, Deploy and others: each test builds its own environment from the package index.
test-clients: .venv/.installed
	.venv/bin/python -m pytest -q -m clients

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# torch comes first: with --index-url all of this step comes from that index, and nothing later
# replaces it. torchvision, which perforatedai requires and nothing here imports, comes with it, so
# that the two are builds of one kind.
.venv/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 13) or sys.exit( \
		"Python must be 3.11 or 3.12; got %d.%d. Name another: make PYTHON=<path>." % v)'
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch torchvision
	touch $@

# Two stamps, so that the demo starts before the test packages (dicom alone takes 1.5 GB) are there.
# --no-build-isolation: setuptools is installed, so an edited pyproject.toml installs offline.
.venv/.demo: .venv/.torch pyproject.toml
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e '.[train]'
	touch $@

.venv/.installed: .venv/.demo
	$(PIP) --no-build-isolation -e '.[train,dicom,study,postgresql]' $(TEST_PACKAGES)
	touch $@

# MLflow and Weights & Biases with all that they need, and a kernel for the tutorial: large, and only a
# few tests want them.
.venv/.all: .venv/.installed
	$(PIP) --no-build-isolation -e '.[tracking,notebook]'
	touch $@
