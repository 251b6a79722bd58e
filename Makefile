# make demo     photographs become previews, before your eyes
# make test     style, types, layers, all tests
# make torture  try to break what is promised, for MINUTES=10: power cuts, kills, rubbish
# make bench    the benchmarks, as a table
# make clean    remove what these have made
#
# Each makes the virtual environment that it needs. PYTHON=python3.12 takes another one.

PYTHON ?= python3
MINUTES ?= 10
PIP := -m pip --disable-pip-version-check --quiet

.PHONY: demo test check torture bench clean
.DELETE_ON_ERROR:

demo: .venv-demo/ready
	.venv-demo/bin/python examples/thumbnails/demo.py

# Compiled first, since the tests start hundreds of daemons. What benchmarks compare
# with need not be there: CI insists, and elsewhere those tests say why they skip.
test: check
	-@$(MAKE) --no-print-directory .venv-bench/packages/ready
	.venv/bin/python -m compileall -q spooler
	.venv/bin/pytest -n 4 --dist worksteal

check: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache | tail -n 5

torture: .venv/ready
	tests/torture/setup.sh
	.venv/bin/python -m tests.torture --minutes $(MINUTES) $(SEED:%=--seed %)

bench: .venv/ready .venv-bench/ready
	.venv/bin/python -m benchmarks --write docs/performance

.venv/ready: requirements/dev.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "spooler needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) install -r requirements/dev.txt
	.venv/bin/python $(PIP) install --no-deps --editable .
	@touch $@

.venv-demo/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "spooler needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python $(PIP) install --editable . pillow
	@touch $@

# The peers of spooler in the benchmarks; uWSGI is compiled.
.venv-bench/ready: requirements/bench.txt benchmarks/servers.sh
	benchmarks/servers.sh
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python $(PIP) install -r requirements/bench.txt
	@touch $@

# What runs on uWSGI, in a folder of its own: tests put it before either server's path.
.venv-bench/packages/ready: requirements/uwsgi.txt | .venv-bench/ready
	.venv-bench/bin/python $(PIP) install --upgrade --no-deps --target $(@D) -r $<
	@touch $@

clean:
	rm -rf .venv .venv-demo .venv-bench .demo build dist spoold.egg-info
	rm -rf .mypy_cache .ruff_cache tests/.ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
