# Each target sets up what it needs, in .venv, and does so once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test parity figures benchmarks clean

demo: .venv/ready
	$(BIN)/python -m patching.demo

test: .venv/ready-test
	$(BIN)/python -m pytest

# Against Hugging Face's own model, at the full GPT-2 small shape (installs PyTorch and transformers).
# Without --quick it takes the 1,024 tokens as well, some minutes more.
parity: .venv/ready-reference
	$(BIN)/python tests/live_parity.py --quick
	$(BIN)/python -m pytest -m reference -k "not live_float64"

benchmarks: .venv/ready-reference
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/backward.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/edges.py

# What README.md and docs/ show; figures/README.md says which command makes which picture
figures: .venv/ready
	$(BIN)/python -m patching.demo --model bundled --lens --direct-attribution
	$(BIN)/python -m patching.demo --model bundled --experiment all
	$(BIN)/python -m patching.demo --model bundled --site overview
	$(BIN)/python -m patching.demo --model bundled --site heads
	$(BIN)/python -m patching.demo --model bundled --attribution
	$(BIN)/python -m minigpt2 --model bundled "Michelle Jones was a top-notch student. Michelle" \
		--pattern 4 2 figures/surname_pattern_4.2_bundled.png

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
