# What a newcomer and the CI run. Needs python3, make and a network; tools/ fetches the rest into .tools and .venv.

SHELL := /bin/bash
# Where it is set, each of a thousand processes that tests start would compile our modules again, and each worker
# rewrite the assertions of every test.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
# Pytest says at its end what took longest.
LONGEST := --durations 8 --durations-min 1

.PHONY: help quickstart test test-fast fuzz lint format packages environments wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

quickstart: .venv/.ready ## Train all frameworks on this machine and write results/quickstart/report.md
	@tools/quickstart.sh

test: packages lint environments ## Check the style and run every test, training in the real frameworks included
	@$(BIN)/pytest -m quiet $$(grep -rl --include 'test_*.py' pytest.mark.quiet tests) $(LONGEST)
	@$(BIN)/pytest -n 2 --dist worksteal -m "not quiet" $(LONGEST)

test-fast: .venv/.ready ## Run the quick tests (one to two minutes on two cores)
	@$(BIN)/pytest -n auto -m "not slow and not engine" --hypothesis-profile quick $(LONGEST)

lint: .venv/.ready ## Check style, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/.ready ## Format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

fuzz: .venv/.ready ## Feed the log parsers with damaged logs (FUZZ_SECONDS, default 180)
	@$(BIN)/python tests/fuzz/fuzz_logs.py --seconds $(or $(FUZZ_SECONDS),180)

packages: ## Install the Debian packages that tests need (as root; else say what is missing)
	@tools/packages.sh

environments: .venv/.ready ## Install the frameworks for tests (gigabytes, once)
	@$(BIN)/python tools/environments.py

wheel: .venv/.ready ## Build dist/dlperf-*.whl
	@"$$(tools/uv.sh)" build --wheel

clean: ## Remove what make made here; results and the framework environments stay
	rm -rf .venv .tools build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.venv/.ready: pyproject.toml uv.lock tools/bootstrap.sh tools/uv.sh
	@tools/bootstrap.sh
	@touch $@
