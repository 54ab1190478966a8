# Needs python3 (3.11 or newer) and make; everything else goes into $(VENV).
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/demo.py
WORKDIR ?= runs/demo
# More --config.KEY=VALUE for the demo.
ARGS ?=

python := $(VENV)/bin/python
pip := -m pip --disable-pip-version-check
minor = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
locks := $(sort $(wildcard constraints/*.txt))
# A Python newer than every lock file gets the newest one.
lock = $(or $(wildcard constraints/py$(call minor,$(python)).txt),\
  $(lastword $(locks)))

.PHONY: demo install lint lock test test-tpu

# The last line printed is the path of the report.
demo: install
	@$(python) -m hh_jax pipeline --config=$(CONFIG) \
	  --workdir=$(WORKDIR) $(ARGS)

install: $(VENV)/installed

test: $(VENV)/installed-dev
	@$(python) -m pytest -n 2 --cov --cov-report=term

# What needs the TPU's compiler, a large package.
test-tpu: $(VENV)/installed-plan
	@$(python) -m pytest -n 2 -m libtpu

lint: $(VENV)/installed-dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

# Writes what PYTHON resolves to today, without the present lock file.
lock: out = constraints/py$(call minor,$(PYTHON)).txt
lock:
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python $(pip) install -qq '.[dev]'
	@mkdir -p constraints
	@.venv-lock/bin/python $(pip) freeze --exclude hh_jax > $(out)
	@rm -r .venv-lock
	@echo "wrote $(out)"

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hh_jax needs Python 3.11 or newer, $(PYTHON) is" \
	    "$$($(PYTHON) -V 2>&1): try make PYTHON=python3.12" >&2; exit 1; }
	@$(python) $(pip) -V >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: spec = .
$(VENV)/installed-dev: spec = .[dev]
$(VENV)/installed-plan: spec = .[dev,plan]
$(VENV)/installed $(VENV)/installed-dev $(VENV)/installed-plan: $(VENV)/created pyproject.toml $(locks)
	@echo "installing hh_jax into $(VENV), a minute or two" >&2
	@$(python) $(pip) install -qq -e '$(spec)' -c $(lock)
	@touch $(VENV)/installed $@
