# Everything sets itself up: a machine with Python >= 3.11 and make is enough.
#   make demo    prunes a small network on the embedded digits
#   make test    runs every test
#   make lint    checks style and types
#   make docs    builds the pages into build/docs
# Another interpreter: make test PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# torch comes first and pinned: without a version pip may take a build with gigabytes of CUDA.
TORCH := $(shell grep '^torch==' constraints.txt)

# One thread a worker and a worker a core; timings stay comparable. Fixed, so that every machine
# runs the same tests in the same way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# An interpreter named by hand replaces a virtual environment that another version made.
version = $(shell $(1) -c 'import sys; print(*sys.version_info[:3])' 2>/dev/null)
ifneq ($(and $(PYTHON),$(call version,$(PYTHON))),)
    ifneq ($(call version,$(PYTHON)),$(call version,$(BIN)/python))
        $(shell rm -rf $(VENV))
    endif
endif
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)

.PHONY: demo test lint docs
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/bnnkit demo --force

test: $(VENV)/.test
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

# The first interpreter that is new enough; PYTHON=... is tried alone.
$(BIN)/python:
	@for python in $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    echo "Setting up $(VENV) with $$("$$python" --version 2>&1)"; \
	    "$$python" -m venv --clear $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    echo "error: '$$python -m venv' did not work; on Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	done; \
	echo "error: no Python 3.11 or newer among '$(PYTHONS)'; install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	exit 1

# A stamp a purpose: each is renewed when the versions change, and no command installs more than
# it needs.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "Installing $(TORCH)"
	@$(INSTALL) $(TORCH)
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing bnnkit"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.test $(VENV)/.docs: $(VENV)/.%: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing bnnkit with its extra '$*'"
	@$(INSTALL) -e '.[$*]'
	@touch $@

# Types are checked against the packages that the tests use.
$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing bnnkit with its extras 'dev' and 'test'"
	@$(INSTALL) -e '.[dev,test]'
	@touch $@
