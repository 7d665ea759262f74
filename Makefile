# Everything runs in $(VENV). It is made on first use and updated when pyproject.toml changes. Stamp
# files in it record the steps that are done.

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TOOLS := $(VENV)/tools
WHEEL_BIN := build/wheel-venv/bin

# The newest Python that the tests run on, else whatever python3 is. Each one is tried, not looked up:
# version managers have shims for versions that are not there.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c "$(SUITABLE)" 2>/dev/null && { echo $$python; break; }; done)
SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))

# Without bytecode files, each process of the tests would compile the package again, and each worker
# all of the tests.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test quick nightly kernels clients cluster kubernetes wire coverage lint format \
	types wheel examples docs check clean

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

demo: $(READY)  ## start a kernel, stream its output, print a result
	@$(BIN)/python examples/01_hello.py

# A crashed worker ends the run. If it were replaced, the new worker could wait for ever for a second
# test, when its file has only one (pytest-xdist 3.8, LoadScopeScheduling).
WITHOUT :=  # files and folders of tests to leave out
PYTEST := $(BIN)/pytest --numprocesses=logical --dist=loadfile --no-loadscope-reorder \
	--max-worker-restart=0 $(WITHOUT:%=--ignore=%)

# An interrupted run still prints its failures and the tests that did not finish. --foreground
# leaves Ctrl-C to pytest. Not every system has GNU's timeout.
BOUNDED := $(shell timeout --foreground --signal=INT --kill-after=60 9 true 2>/dev/null && \
	echo timeout --foreground --signal=INT --kill-after=60)

test: $(READY)  ## run all tests, each on the event loops that its code depends on
	$(BOUNDED:%60=%60 2700) $(PYTEST)

quick: $(READY)  ## run the quick tests on asyncio, without most of the real kernels
	$(BOUNDED:%60=%60 600) $(PYTEST) --quick

nightly: $(READY)  ## run each test on each event loop
	$(BOUNDED:%60=%60 3600) $(PYTEST) --loops=all

kernels: $(READY)  ## install other people's kernels, for the tests of them
	$(BIN)/python -m tests.integration.kernels.install

clients: $(READY)  ## install other people's clients and a browser, for the tests with them
	$(BIN)/python -m tests.integration.clients.install

# From Debian or Ubuntu, as root. RUNLEVEL keeps apt from starting daemons.
CLUSTER :=
CLUSTER += catatonit  # the first process of each container
CLUSTER += libnss-wrapper  # users of the tests
CLUSTER += munge  # authenticates the daemons of Slurm
CLUSTER += openssh-server  # another machine
CLUSTER += podman  # containers
CLUSTER += postgresql  # a registry
CLUSTER += runc  # runs them
CLUSTER += slurm-wlm  # batch jobs
CLUSTER += uidmap  # containers of ordinary users
cluster:  ## install podman, PostgreSQL, Slurm and sshd, for the tests with them (Debian, as root)
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(CLUSTER)

# The programs are compiled from Debian's source package, once: the cache folder that they stay in is
# outside of the tree. Debian 12 has the version that is built.
KUBERNETES :=
KUBERNETES += dpkg-dev  # unpacks source packages
KUBERNETES += etcd-server  # the store of the API server
KUBERNETES += golang-go  # compiles
kubernetes: $(READY)  ## build a Kubernetes, for the tests with it (Debian 12, as root)
	dpkg --status $(KUBERNETES) >/dev/null 2>&1 || \
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(KUBERNETES)
	@$(BIN)/python -m tests.launch.kubernetes.build

# Only tests with podman, Slurm and Kubernetes run these.
ENGINES := kernelproto/launch/container/*,kernelproto/launch/batch/*,kernelproto/kubernetes/*
coverage: $(READY)  ## run all tests with branch coverage, and compare it with the thresholds
	$(BOUNDED:%60=%60 3600) $(PYTEST) --cov --cov-report=
	$(BIN)/coverage report --include='kernelproto/wire/*' --fail-under=100
	$(BIN)/coverage report --omit='kernelproto/wire/*,$(ENGINES)' --fail-under=95

wire: $(READY)  ## run the tests of wire/, which cover all of its branches
	$(PYTEST) --dist=load --cov=kernelproto.wire --cov-report= tests/wire
	$(BIN)/coverage report --include='kernelproto/wire/*' --fail-under=100

SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema vendor.github
lint: $(TOOLS)  ## check style, formatting, spelling and the workflows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(SCHEMA)-workflows .github/workflows/*.yml
	$(SCHEMA)-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(SCHEMA)-issue-config .github/ISSUE_TEMPLATE/config.yml

format: $(TOOLS)  ## repair what can be repaired of them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(TOOLS)  ## check types, with mypy and with pyright
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

wheel: $(TOOLS)  ## build wheel and sdist, import the wheel in a clean environment
	rm -rf dist build/wheel-venv
	$(BIN)/python -m build
	$(BIN)/python -m venv build/wheel-venv
	$(WHEEL_BIN)/python -m pip install --quiet dist/*.whl
	$(WHEEL_BIN)/python -I .ci/check_wheel.py

examples: $(READY)  ## run every example
	@set -e; for example in examples/*.py; do echo "--- $$example"; $(BIN)/python $$example; done

docs: $(TOOLS)  ## build the documentation's site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python .ci/check_site.py build/site

check: lint types wheel examples docs coverage  ## all of these checks

clean:  ## remove everything that was made here
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find kernelproto tests examples -name __pycache__ -prune -exec rm -r {} +

$(READY): pyproject.toml
	@"$(PYTHON)" -c "$(SUITABLE)" 2>/dev/null || { \
		echo "kernelproto needs Python 3.11 or newer, with its venv module." >&2; \
		echo "Name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into $(VENV); this takes a minute."
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # earlier ones know no --group
	@$(BIN)/python -m pip install --quiet --editable '.[all]' --group test
	@touch $@

$(TOOLS): $(READY)
	@echo "Installing the development tools."
	@$(BIN)/python -m pip install --quiet --group dev
	@touch $@
