# Each target sets up what it needs, in .venv, and does so once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test parity figures benchmarks clean

demo: .venv/ready
	$(BIN)/python -m patching.demo

test: .venv/ready-test
	$(BIN)/python -m pytest

# Against Hugging Face's own model, at the full GPT-2 small shape (installs PyTorch and transformers)
parity: .venv/ready-reference
	$(BIN)/python tests/live_parity.py
	$(BIN)/python -m pytest -m reference

benchmarks: .venv/ready-reference
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/generation.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis

.venv/ready: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/ready-test: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv/ready-reference: .venv/ready-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check transformers
	touch $@
