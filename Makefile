# Every target sets up what it needs first; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-vm bench bench-migrate bench-runtime conformance lint format
.PHONY: clean
SHELL := /bin/bash

pytest = .venv/bin/python -m pytest
# Most of the tests' time is waiting. Each worker has hosts of its own, and takes from who has more.
parallel = -n 3 --dist worksteal
# What another kernel must have, or the tests fail: it is why they run there.
vm_provides = cgroup_v2 systemd apparmor soft_dirty
# Where such tests are: to import all others takes it a minute or more.
vm_files = $(shell grep -lE "mark\.(vm|needs_($(subst $() ,|,$(vm_provides))))\b" tests/root/test_*.py)
# What waits long begins first, or it would be waited for at the end.
levels = $(wildcard tests/faults tests/lab tests/clients tests/root tests/unit)

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' Makefile | expand -t 22

setup:  ## install what is missing and make .venv with the command in it
	@tools/setup

demo: setup  ## move a live Redis with a connected client between two hosts on this machine
	@.venv/bin/migrator scenario run redis-live

test: setup  ## run all tests: unit, one host, two hosts, injected faults
	@$(pytest) $(parallel) $(levels)

test-unit: setup  ## run the tests that need no root and take seconds
	@$(pytest) tests/unit

test-vm:  ## run those that want cgroup v2, systemd, AppArmor or soft-dirty, under Debian 13's kernel in QEMU
	@tools/setup --vm
	@$(MAKE) --no-print-directory --keep-going --jobs test-vm-1 test-vm-2

# A machine each, beside one another: one of them has one processor, see tools/vm.
test-vm-%:
	@tools/vm env CI_STRICT=1 CI_REQUIRES="$(vm_provides)" $(pytest) -v -p no:cacheprovider --durations 10 \
		-m "(vm $(vm_provides:%=or needs_%)) and not needs_cgroup_v1" --part $*/2 $(vm_files)

bench:  ## measure small migrations in each mode beside scripts of runc and ssh; minutes
	@tools/setup --bench
	@.venv/bin/python tools/bench --quick $(BENCH)

bench-migrate:  ## the whole matrix, up to 4 GiB, and what of the targets is reached; hours
	@tools/setup --bench
	@.venv/bin/python tools/bench $(BENCH)

bench-runtime: setup  ## measure migrator's verbs beside runc's and crun's; a minute or two
	@.venv/bin/python tools/bench_runtime.py $(BENCH)

conformance: setup  ## drive the same verbs of migrator, runc and crun, and compare; two minutes
	@.venv/bin/python tools/conformance $(CONFORMANCE)

lint: setup  ## check style, types and scripts
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

format: setup  ## let ruff rewrite what it can
	@.venv/bin/ruff check --fix && .venv/bin/ruff format

clean:  ## remove what set-up and the tests have made in this checkout
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
