# Each target sets up what it needs, in .venv, and does so once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-oldest lint parity figures docs golden benchmarks clean

demo: .venv/ready
	$(BIN)/python -m patching.demo

# In two processes, with one BLAS thread each (tests/conftest.py)
test: .venv/ready-test
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/ready-test
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/ready-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# With the oldest versions of everything that setup.cfg permits, in an environment of their own
test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -n 2

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
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/edges.py
	$(BIN)/python benchmarks/overwrites.py

# What README.md and docs/ show; figures/README.md says which command makes which picture
figures: .venv/ready
	$(BIN)/python -m patching.demo --model bundled --lens --direct-attribution
	$(BIN)/python -m patching.demo --model bundled --experiment all
	$(BIN)/python -m patching.demo --model bundled --site overview
	$(BIN)/python -m patching.demo --model bundled --site heads
	$(BIN)/python -m patching.demo --model bundled --attribution
	$(BIN)/python -m minigpt2 --model bundled "Michelle Jones was a top-notch student. Michelle" \
		--pattern 4 2 figures/surname_pattern_4.2_bundled.png
	$(BIN)/python examples/published_map.py
	$(BIN)/python examples/forward_pass_pictures.py

# What the blocks of docs/ print, written anew; read the prose around them afterwards
docs: .venv/ready-test
	$(BIN)/python tests/test_docs.py

# The files of tests/golden/, by the reference implementations
golden: .venv/ready-reference
	for maker in tests/golden/make_*.py; do $(BIN)/python $$maker || exit 1; done

clean:
	rm -rf .venv .venv-oldest build *.egg-info .pytest_cache .hypothesis

.venv/ready: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/ready-test: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv/ready-lint: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lint]'
	touch $@

.venv-oldest/ready: setup.cfg pyproject.toml tests/oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[test]' --constraint tests/oldest.txt
	touch $@

.venv/ready-reference: .venv/ready-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check transformers
	touch $@
