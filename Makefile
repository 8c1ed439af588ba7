# Set-up and the two commands of the README. Needs python3 (3.10 to 3.13) with venv, and PyPI.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= build/demo
DATA := --calib models/fashion_mnist_calib.npz --val models/fashion_mnist_val.npz --test models/fashion_mnist_test.npz

.PHONY: demo test test-slow test-lowest lint types unit docs reference zoo gpu peers clean

demo: .venv/installed
	$(BIN)/hqp optimize models/mobilenet_v3_small.onnx $(DATA) -o $(OUT)/mobilenet_v3_small
	$(BIN)/hqp optimize models/resnet18.onnx $(DATA) -o $(OUT)/resnet18
	@test -e $(OUT)/resnet18/model.engine || \
	    echo "No engines: no TensorRT is installed. The one for RTX has wheels for Linux and Windows on x86-64."

test: lint types unit

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/installed
	$(BIN)/mypy

unit: .venv/installed
	$(BIN)/pytest --numprocesses auto --dist loadfile -m 'not slow'

# What takes longer: every command of the pages on tasks, traps and tutorials, mutated files.
test-slow: .venv/installed
	$(BIN)/pytest --numprocesses auto --dist loadfile -m slow

# What models lose today, beside models/reference.json; `make test` checks one row of it. make reference REFERENCE='--only INT4'
reference: .venv/installed
	$(BIN)/python tools/check_reference.py $(REFERENCE)

# The documentation as a site, in build/site; fails where a link leads nowhere.
docs: .venv/installed
	$(BIN)/python tools/site.py

# The lowest versions that pyproject.toml admits, in an environment of their own. CI runs what touches other packages most;
# make test-lowest LOWEST=tests runs everything.
LOWEST ?= tests/test_api.py tests/test_boundary.py tests/test_limits.py tests/cli/test_habits.py tests/data tests/graphs \
    tests/runtimes tests/statistics tests/allocation tests/timing tests/passes/test_convert_fp16.py tests/passes/test_insert_qdq.py \
    tests/passes/test_prune_channels.py tests/gradients/test_rules.py tests/cli/test_outputs.py

test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest --numprocesses auto --dist loadfile --ignore tests/test_house.py $(LOWEST)

.venv-lowest/installed: pyproject.toml tools/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tools/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --requirement .venv-lowest/lowest.txt \
	    'pytest>=8' 'pytest-xdist>=3.6' 'hypothesis>=6.100' 'pyyaml>=6'
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Export about 200 architectures with PyTorch and prune them all: an environment of its own, 2 GB of packages
# (torch first and the others without their dependencies, so that none replaces it), about an hour on 2 cores.
# make zoo ZOO='--only torchvision/resnet50'
zoo: .venv-zoo/installed
	mkdir -p build
	.venv-zoo/bin/python tools/zoo.py --jobs 2 --cache build/zoo --json build/zoo.json $(ZOO) | tee build/zoo.md

.venv-zoo/installed: pyproject.toml
	$(PYTHON) -m venv .venv-zoo
	.venv-zoo/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-zoo/bin/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0 timm==1.0.31 pytorchcv==0.0.74
	.venv-zoo/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]' transformers==5.23.0 \
	    onnxsim==0.8.1 onnxslim==0.1.98 onnxscript==0.7.2 requests
	touch $@

.venv/installed: pyproject.toml | hqp_onnx/passes
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[tensorrt-rtx]' || \
	    echo "no TensorRT for RTX for this machine: its tests are skipped"
	touch $@

# A source distribution holds no links; type checkers and import-linter follow this one.
hqp_onnx/passes:
	ln -s ../passes $@

# On a machine with an NVIDIA GPU: its tests, and tables of what it does with models and with the work on them, in ten
# minutes (docs/gpu.md). TensorRT is the system's (a Jetson's) or what `pip install tensorrt` puts into .venv-gpu; rows that
# need what is missing are listed.
GPU_RUNTIME ?= $(if $(filter x86_64,$(shell uname -m)),onnxruntime-gpu[cuda,cudnn],onnxruntime)

gpu: .venv-gpu/installed
	.venv-gpu/bin/python -m pytest -m gpu tests/engine tests/runtimes
	.venv-gpu/bin/python tools/bench_gpu.py

.venv-gpu/installed: pyproject.toml
	$(PYTHON) -m venv --system-site-packages .venv-gpu
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check --editable '.[nvml]' '$(GPU_RUNTIME)' 'pytest>=8'
	touch $@

# The quantizers that tools/bench_quantization.py compares, in an environment of their own.
peers:
	$(PYTHON) -m venv build/peers
	build/peers/bin/pip install --quiet onnxruntime onnx onnxsim==0.8.1 nncf openvino transformers onnxruntime-extensions onnx_ir pydantic
	build/peers/bin/pip install --quiet py-cpuinfo prettytable schema deprecated pyyaml psutil
	build/peers/bin/pip install --quiet --no-deps onnx-neural-compressor

clean:
	rm -rf .venv .venv-lowest .venv-zoo .venv-gpu build *.egg-info
