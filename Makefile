# The project's habits. Each target makes .venv from the lock first, so a fresh clone needs
# only Python 3.11+, git and make.

PYTHON ?= python3
VENV   ?= .venv
# Most tests wait for processes, not for a core.
WORKERS ?= 4
# How long a storm `make chaos` raises; SEED=1 raises the one of seed 1.
SECONDS ?= 120
# How often `make adopt` kills the supervisor.
KILLS ?= 100
TREES ?= 200
# How many events `make ai-live` writes.
EVENTS ?= 1000000
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test chaos adopt logs trees ordinary ai-live fuzz equality check docs bench lock clean

demo: $(STAMP)
	@$(BIN)/python examples/demo.py

test: $(STAMP)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

chaos: $(STAMP)
	@CHAOS_SEED=$(SEED) CHAOS_SECONDS=$(SECONDS) $(BIN)/python -m pytest -s tests/chaos --ignore tests/chaos/test_takeovers.py

# The supervisor alone is killed: at any moment, and within 2 ms of a spawn.
adopt: $(STAMP)
	@ADOPT_SEED=$(SEED) ADOPT_KILLS=$(KILLS) $(BIN)/python -m pytest -s -q tests/chaos/test_takeovers.py

# 10 MB/s of log from each of 4 sessions, through 20 rotations and 5 deaths of the supervisor.
logs: $(STAMP)
	@PTSUP_LOGS_LONG=1 $(BIN)/python -m pytest -s -q tests/e2e/test_log_rotation.py

# 200 sessions that do not want to go, in place of the 20 that `make test` takes.
trees: $(STAMP)
	@PTSUP_TREES=$(TREES) $(BIN)/python -m pytest -q -rP tests/e2e/test_hostile_trees.py

# A million events for the AI live exporter, in place of 20,000.
ai-live: $(STAMP)
	@PTSUP_AI_EVENTS=$(EVENTS) $(BIN)/python -m pytest -q -s tests/shell/test_ai_live.py -k long_stream

# Ten minutes of ten ordinary sessions that come and go, in place of the seconds of `make test`.
ordinary: $(STAMP)
	@PTSUP_ORDINARY_SECONDS=$(or $(ORDINARY_SECONDS),600) $(BIN)/python -m pytest -q -s tests/e2e/test_ordinary.py

check: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m pytest -q tests/core/test_architecture.py

docs: $(STAMP)
	@$(BIN)/python tests/documents.py

bench: $(STAMP)
	@$(BIN)/python -m pytest -q -s -o addopts=--import-mode=importlib tests/bench

# 100,000 damaged shards and 50,000 control messages, in place of the thousands of `make test`.
fuzz: $(STAMP)
	@PTSUP_FUZZ_CONTROL=50000 PTSUP_FUZZ_TOML=50000 PTSUP_FUZZ_SHARDS=100000 $(BIN)/python -m pytest -q -n 2 -rP tests/fuzz

# 10,000 generated directories, in place of some hundreds.
equality: $(STAMP)
	@PTSUP_EQUALITY_CASES=10000 $(BIN)/python -m pytest -q -n 2 -rP tests/shell/test_equality.py

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ptsup needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) from requirements.lock"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Needs uv; the one place that writes the lock.
lock:
	uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache dist build
