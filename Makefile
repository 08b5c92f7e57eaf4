# Everything runs inside .venv, which the lock file (Python 3.11) defines.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint lock clean

demo: $(STAMP)
	$(BIN)/vf-jax demo --out demo_out

test: $(STAMP)
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# The stamp is written last, so an interrupted installation starts again.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	touch $(STAMP)

# Renews the lock (needs uv; only when dependencies change).
lock:
	uv pip compile pyproject.toml --extra dev --python-version 3.11 \
	  --generate-hashes --no-header --output-file requirements.lock --upgrade

clean:
	rm -rf $(VENV) demo_out
