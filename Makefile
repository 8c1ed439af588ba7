# Set-up and the two commands of the README. Needs python3 (3.10 to 3.13) with venv, and PyPI.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= build/demo
DATA := --calib models/fashion_mnist_calib.npz --val models/fashion_mnist_val.npz --test models/fashion_mnist_test.npz

.PHONY: demo test lint types unit clean

demo: .venv/installed
	$(BIN)/hqp optimize models/mobilenet_v3_small.onnx $(DATA) -o $(OUT)/mobilenet_v3_small
	$(BIN)/hqp optimize models/resnet18.onnx $(DATA) -o $(OUT)/resnet18

test: lint types unit

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

unit: .venv/installed
	$(BIN)/pytest

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
