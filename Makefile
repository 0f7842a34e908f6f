# Two commands for a newcomer: `make demo` shows the whole loop on real data, `make test` checks everything.
PYTHON ?= python3.11
BIN := .venv/bin
REPORT ?=
ONLY ?=
FULL ?=

.PHONY: demo test conformance stress bench check
.PRECIOUS: .venv-conformance/%.ok

demo: .venv/demo.ok
	$(BIN)/python -m control.demo --data .interlock-demo $(if $(REPORT),--report $(REPORT))

test: check
	$(BIN)/pytest -n 2 --dist worksteal

# Clients that we did not write, each in an environment of its own: some 40 s to make them, once.
conformance: .venv/dev.ok .venv-conformance/tritonclient.ok .venv-conformance/kserve.ok
	$(BIN)/pytest tests/conformance

stress: conformance
	STRESS=1 $(BIN)/pytest -m stress -n 2 --dist worksteal

bench: .venv/dev.ok
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--full) $(if $(REPORT),--report $(REPORT))

check: .venv/dev.ok
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/buf lint proto
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"

# An install compiles the protos, so it is made again when they change.
.venv/demo.ok: .venv/bin/python pyproject.toml constraints.txt hatch_build.py $(wildcard proto/*/v1/*.proto)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[all]"
	touch $@

.venv/dev.ok: .venv/demo.ok
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev
	touch $@

.venv-conformance/%.ok: tests/conformance/%.txt
	$(PYTHON) -m venv --clear .venv-conformance/$*
	.venv-conformance/$*/bin/pip install --quiet --requirement $<
	touch $@
