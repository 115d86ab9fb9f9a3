# Two commands do all the set-up: `make demo` and `make test`. PYTHON= chooses the interpreter,
# VENV= where the virtual environment lies.
PYTHON ?= python3
VENV ?= .venv
# How many processes share the tests. Each looks after its own sandboxes and containers alone.
WORKERS ?= auto
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The stamps name the interpreter, so that another PYTHON= rebuilds the environment.
PYTHON_ID := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' || echo none)
MADE := $(VENV)/.made-$(PYTHON_ID)
INSTALLED := $(VENV)/.installed-$(PYTHON_ID)
INSTALLED_DEV := $(VENV)/.installed-dev-$(PYTHON_ID)
INSTALLED_BENCH := $(VENV)/.installed-bench-$(PYTHON_ID)

.PHONY: demo test lint bench docs agent system clean

demo: system $(INSTALLED)
	$(BIN)/python examples/demo.py

# Tests run in several processes. Of a single file, plain pytest is quicker.
test: system lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	cd rock_gym/backends/launcher && $(abspath $(BIN))/mypy --strict --allow-any-generics \
		--explicit-package-bases --config-file= .

# Every row of benchmarks/, into RESULTS.md beside them. Peers are installed below .bench/ at first.
bench: system $(INSTALLED_BENCH)
	$(BIN)/python benchmarks/run.py --write benchmarks

# The site, in site/. While writing: $(BIN)/mkdocs serve
docs: $(INSTALLED_DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The first process of containers and the forker of embedded sandboxes, whose programs are kept
# beside their sources. Needs on Debian:
# gcc-x86-64-linux-gnu gcc-aarch64-linux-gnu linux-libc-dev-arm64-cross.
agent:
	rock_gym/backends/native/build.sh rock_gym/backends/docker/agent
	rock_gym/backends/native/build.sh rock_gym/backends/launcher/forker

# What only the system's package manager can supply. Installed where that needs no password.
system:
	@missing=""; \
	command -v bwrap >/dev/null || missing="bubblewrap"; \
	test -e $(MADE) || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	test -n "$$missing" || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing:" $$missing; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
		echo "missing:" $$missing; echo "  run: sudo apt-get install" $$missing; exit 1; \
	fi

$(MADE): | system
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(INSTALLED): pyproject.toml $(MADE)
	@echo "installing into $(VENV), once: this takes a minute or so"
	$(PIP) install --editable .
	@touch $@

$(INSTALLED_DEV): pyproject.toml $(MADE)
	$(PIP) install --editable '.[dev]'
	@touch $@ $(INSTALLED) $(INSTALLED_BENCH)

$(INSTALLED_BENCH): pyproject.toml $(MADE)
	$(PIP) install --editable '.[bench]'
	@touch $@ $(INSTALLED)

clean:
	rm -rf $(VENV) .bench build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
