# The commands of this project; `make` alone lists them. A fresh clone needs Python 3.11, git, make and npm.
#
# Everything is installed into .venv at the versions and hashes of requirements.txt; the files .venv/installed* say
# that this was done, so that a second call installs nothing.

PYTHON = $(or $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; done), \
	$(error Python 3.11 is needed, but neither python3.11 nor python3 is one: install it, \
	or say where it is with `make PYTHON=/path/to/python3.11`))
PIP_INSTALL := .venv/bin/python -m pip install -qq --require-hashes --no-deps
# Two makes at once in one clone: the second waits, and then finds nothing left to install.
WITH_LOCK := $(if $(shell command -v flock),flock Makefile)

# dvc.yaml says `python -m pipeline.…`: that is to be the python of .venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# without compiled bytecode each stage starts twice as slowly
unexport PYTHONDONTWRITEBYTECODE
# a git hook that calls make sets these; tests make repositories of their own
unexport GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE

.PHONY: help setup setup-test setup-cluster repro test test-slow test-cluster test-cluster-short lint format experiments \
	ui server sweep bench faults lock clean chromium postgres

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s  %s\n", $$1, $$2}' Makefile

setup:  ## make .venv and install the pinned packages into it (two minutes, the first time)
	@$(WITH_LOCK) $(MAKE) --no-print-directory --silent .venv/installed

setup-test:
	@$(WITH_LOCK) $(MAKE) --no-print-directory --silent .venv/installed-test

setup-cluster:  ## install what a team's set-up needs, too: Ray, Slurm, S3, PostgreSQL, passwords (docs/team.md)
	@$(WITH_LOCK) $(MAKE) --no-print-directory --silent .venv/installed-cluster

repro: setup  ## run the pipeline: what is out of date is made again, then the results are shown
	dvc repro
	python -m pipeline.summary

test: setup-test chromium lint  ## what CI runs first: lint, then every test that is not slow
	python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder --durations 15 -m "not slow and not cluster"

test-slow: setup-test  ## run the slow tests only
	python -m pytest -m "slow and not cluster"

test-cluster: setup-cluster postgres  ## run the tests with PostgreSQL, an MLflow server, S3 and Ray, all of which they start and stop
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15 -m cluster tests/cluster

test-cluster-short: setup-cluster postgres  ## run one of these for each service
	python -m pytest -m "cluster and short" tests/cluster

lint: setup-test  ## check style (ruff) and types (mypy); changes nothing
	ruff check
	ruff format --check
	mypy

format: setup-test  ## format the code and mend what ruff can mend
	ruff check --fix
	ruff format

experiments: setup  ## list the experiments of `dvc exp run`: test figures of both nets, and the settings that differ
	@python -m pipeline.experiments

ui: setup  ## show the tracked runs in MLflow's web pages, on 127.0.0.1 (another port than 5000: make ui PORT=5001)
	python -m pipeline.ui $(PORT)

server: setup-cluster  ## try out an MLflow server with passwords, on 127.0.0.1 (another port than 5050: make server PORT=5051)
	python -m pipeline.server $(PORT)

sweep: setup  ## search the Keras net's learning rate and units; once more: it goes on
	python -m pipeline.train experiment=sweep_keras

bench: setup  ## measure it beside plain scripts, and torch and jax where they are (half an hour); parts of it: make bench PARTS="csv scratch"
	python -m bench $(PARTS)

faults: setup-test  ## kill, starve and mislead it in full (half an hour), and count what survives
	python -m pytest tests/faults -q

lock: .venv/lock/bin/uv  ## write requirements*.txt from pyproject.toml; newest versions: make lock UPGRADE=--upgrade
	echo "python-dateutil<3" | $(COMPILE) --constraints - --output-file requirements.txt
	$(COMPILE) --extra test --constraints requirements.txt --output-file requirements-test.txt \
		$$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.txt)
	echo "cloudpickle==3.1.2" | $(COMPILE) --extra test --extra cluster --override - \
		--constraints requirements.txt --constraints requirements-test.txt --output-file requirements-cluster.txt \
		$$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.txt requirements-test.txt)

clean:  ## remove the stages' outputs and the tools' caches; keeps .venv, DVC's cache and the tracked runs
	rm -rf data/raw data/loaded data/prepared data/runs data/reports
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find pipeline tests -name __pycache__ -type d -prune -exec rm -rf {} +

# For the tests that look at a page in a browser; where Chromium cannot be installed, they are skipped.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& echo "Installing Debian's Chromium for the browser tests." \
		&& export DEBIAN_FRONTEND=noninteractive && apt-get -qq update >/dev/null 2>&1 </dev/null \
		&& apt-get -qq install --no-install-recommends chromium >/dev/null 2>&1 </dev/null; } \
		|| echo "No Chromium here: the browser tests will be skipped."

# For the tests of a team's set-up; where PostgreSQL cannot be installed, those that need it are skipped, but fail with
# CLUSTER=required. Without NO_MAIN Debian's package makes and starts a server of its own, on port 5432.
NO_MAIN := /etc/postgresql-common/createcluster.d/no-main.conf
postgres:
	@command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] \
		&& command -v apt-get >/dev/null && echo "Installing Debian's PostgreSQL for the tests." \
		&& mkdir -p $(dir $(NO_MAIN)) && echo "create_main_cluster = false" >$(NO_MAIN) \
		&& trap 'rm -f $(NO_MAIN)' EXIT && export DEBIAN_FRONTEND=noninteractive \
		&& { told=$$({ apt-get -qq update && apt-get -qq install --no-install-recommends postgresql; } \
			2>&1 >/dev/null </dev/null) || { echo "$$told" | tail -1; false; }; }; } \
		|| echo "No PostgreSQL here: the tests that need it will be skipped."

.venv/bin/python3.11:
	echo "Making .venv with $(PYTHON)."
	$(PYTHON) -m venv --clear .venv

# The .pth file lets `import pipeline` work from any folder; unlike `pip install -e` it builds nothing.
.venv/installed: requirements.txt pyproject.toml | .venv/bin/python3.11
	echo "Installing the packages of $<: two minutes, once."
	$(PIP_INSTALL) -r $<
	.venv/bin/python -c 'import os, pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), \
		"experiment-pipeline.pth").write_text(os.getcwd() + "\n")'
	touch $@

.venv/installed-test: requirements-test.txt .venv/installed
	echo "Installing the packages of $<."
	$(PIP_INSTALL) -r $<
	touch $@

.venv/installed-cluster: requirements-cluster.txt .venv/installed-test
	echo "Installing the packages of $<."
	$(PIP_INSTALL) -r $<
	touch $@

# python-dateutil is held below 3, as uv would take 4 and, for it, older celery and graphene, which set no bound.
# MLflow pins cloudpickle to 3.1.2 and hydra-ray-launcher below 3, which works with 3.1.2, too.
COMPILE := .venv/lock/bin/uv pip compile pyproject.toml --quiet $(UPGRADE) --generate-hashes --no-annotate \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock"

.venv/lock/bin/uv: | .venv/bin/python3.11
	.venv/bin/python -m venv .venv/lock
	.venv/lock/bin/python -m pip install -qq uv==0.13.9
