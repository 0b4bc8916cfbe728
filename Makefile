# make demo     the main job, in an environment of its own where none is active
# make test     lint, types and all tests; the face also on a second Python
# make test-3.11 test-3.12   all tests on each (slow)
# make parity   our answers beside shapiq's and spectralexplain's (slow: peers)
# make bench    the benchmarks, beside the peers (slow; builds their environment)
# make test-slow    benchmarks at their quick sizes, and tests that take long
# make test-peers   the tests that run peer packages (slow; the same)
# make peers peers-shapiq peers-torch   the environments of the peers alone
# make test-cluster   a real Slurm, Ray, stores, schemas (slow; Debian, root once)
# make lock     pins every dependency anew (needs uv)

SHELL := /bin/bash
.DEFAULT_GOAL := help
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A shim may exist for a version that is not installed, and a system's Python
# may lack venv, so each is tried.
find = $(shell for python in python$(1) \
    "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1)*/bin/python python3 python; do \
  "$$python" -c 'import ensurepip, sys; \
    sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' \
    2>/dev/null && { command -v "$$python"; break; }; done)

# The active environment is used if it works, is of a version we support, and
# its path has no space, which make cannot name. Else, one of ours.
active_version := $(if $(VIRTUAL_ENV),$(shell \
  "$(VIRTUAL_ENV)/bin/python" -c \
    'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
active := $(if $(filter 1,$(words $(VIRTUAL_ENV))),$(if \
  $(filter 3.11 3.12,$(active_version)),$(VIRTUAL_ENV)))
ifneq ($(VIRTUAL_ENV),$(active))
  $(info Not used: the active environment $(VIRTUAL_ENV), which lacks Python \
    3.11 or 3.12 or has a space in its path.)
endif
python311 := $(call find,3.11)
python312 := $(call find,3.12)
env311 := $(or $(if $(filter 3.11,$(active_version)),$(active)),.venv)
env312 := $(or $(if $(filter 3.12,$(active_version)),$(active)),.venv312)
has311 := $(python311)$(filter $(active),$(env311))
has312 := $(python312)$(filter $(active),$(env312))
# What lint and types run in, and what the main job does: the active
# environment, or one of ours.
env_dev := $(if $(has311),$(env311),$(env312))
env := $(or $(active),$(env_dev))

setup := setup.cfg pyproject.toml
# Where `make bench` records the games that decoders are compared on.
games ?= build/games
sources := spex_jax tests experiments third_party launch
install = "$(1)/bin/python" -m pip install --quiet --require-hashes -r $(2) \
  && "$(1)/bin/python" -m pip install --quiet --no-deps \
    --no-build-isolation -e .

.PHONY: help demo test test-first-half test-second-half test-ends test-3.11 \
  test-3.12 check test-slow test-peers bench \
  parity lock peers peers-shapiq peers-torch test-cluster

help:
	@sed -n 's/^# //;/^make/p' Makefile

demo: $(env)/.spex-core
	"$(env)/bin/spex" explain

# Side by side: most of a run is compilation, on one core. All tests run on one
# Python, in two halves; on the other, what depends on versions most: the face,
# the command, files. `make test-3.11 test-3.12` runs all on both.
first_half := $(addprefix tests/,ablate components datasets experiments indices influence \
  jobs masks report store sweeps third_party training)
test: check
	$(MAKE) --no-print-directory -j2 \
	  $(if $(filter output-sync,$(.FEATURES)),-Otarget) \
	  test-second-half test-first-half $(if $(has311),$(if $(has312),test-ends))

test-first-half: $(env_dev)/.spex-all
	"$(env_dev)/bin/python" -m pytest $(first_half)

test-second-half: $(env_dev)/.spex-all
	"$(env_dev)/bin/python" -m pytest $(first_half:%=--ignore=%)

test-ends: $(env312)/.spex-all
	"$(env312)/bin/python" -m pytest tests/store \
	  $(foreach x,architecture cli packaging readme explanation,tests/$(x)_test.py)

check: $(env_dev)/.spex-all
	"$(env_dev)/bin/ruff" check $(sources)
	"$(env_dev)/bin/ruff" format --check $(sources)
	"$(env_dev)/bin/pyrefly" check \
	  --python-interpreter-path "$(env_dev)/bin/python"

test-3.11: $(env311)/.spex-all
	"$(env311)/bin/python" -m pytest

test-3.12: $(env312)/.spex-all
	"$(env312)/bin/python" -m pytest

test-slow: $(env_dev)/.spex-all
	"$(env_dev)/bin/python" -m pytest -m slow

test-peers: $(env311)/.spex-all peers peers-shapiq
	"$(env311)/bin/python" -m pytest -m peers

# Of Debian's packages; they start nothing by themselves where systemd is not.
slurm_packages := slurmctld slurmd slurm-client munge
test-cluster: third_party/.venv-cluster/.installed
	@for program in slurmctld slurmd sbatch munged; do \
	  PATH="$$PATH:/usr/sbin" command -v $$program > /dev/null && continue; \
	  echo "$$program is missing; installing $(slurm_packages)"; \
	  [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null || { \
	    echo "This needs root, on Debian or Ubuntu: apt-get install" \
	      "$(slurm_packages)" >&2; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install \
	    -qq -y --no-install-recommends $(slurm_packages); break; done
	third_party/.venv-cluster/bin/python -m pytest -m cluster

parity: $(env311)/.spex-all peers
	"$(env311)/bin/python" -m experiments.parity_shapiq
	"$(env311)/bin/python" -m experiments.parity_spectralexplain

bench: $(env311)/.spex-all peers peers-shapiq
	"$(env311)/bin/python" -m experiments.bench_transform
	"$(env311)/bin/python" -m experiments.bench_indices
	"$(env311)/bin/python" -m experiments.bench_spex
	"$(env311)/bin/python" -m experiments.record_games --output=$(games)
	"$(env311)/bin/python" -m experiments.bench_decoders --games=$(games)
	"$(env311)/bin/python" -m experiments.bench_singles
	"$(env311)/bin/python" -m experiments.bench_evaluate
	"$(env311)/bin/python" -m experiments.spex_removal
	"$(env311)/bin/python" -m experiments.bench_retrain
	"$(env311)/bin/python" -m experiments.bench_components
	rm -rf build/sweep
	"$(env311)/bin/python" -m experiments.bench_sweep --workdir=build/sweep

peers: third_party/.venv/.installed

peers-shapiq: third_party/.venv-shapiq/.installed

peers-torch: third_party/.venv-torch/.installed

.venv/bin/python:
	$(if $(python311),,$(error Needs Python 3.11; `make test-3.12` runs on 3.12))
	"$(python311)" -m venv .venv || { rm -rf .venv; exit 1; }

.venv312/bin/python:
	$(if $(python312),,$(error Needs Python 3.11 or 3.12))
	"$(python312)" -m venv .venv312 || { rm -rf .venv312; exit 1; }

%/.spex-core: requirements-core.lock $(setup) | %/bin/python
	$(call install,$*,requirements-core.lock)
	touch "$@"

%/.spex-all: requirements.lock $(setup) | %/bin/python
	$(call install,$*,requirements.lock)
	touch "$@" "$*/.spex-core"

third_party/.venv/.installed: third_party/requirements.lock
	$(if $(python311),,$(error The peers need Python 3.11))
	"$(python311)" -m venv third_party/.venv
	third_party/.venv/bin/python -m pip install --quiet --require-hashes -r $<
	touch "$@"

# shapiq from 1.8 on needs Python 3.12.
third_party/.venv-shapiq/.installed: third_party/requirements-shapiq.lock
	$(if $(python312),,$(error shapiq needs Python 3.12))
	"$(python312)" -m venv third_party/.venv-shapiq
	third_party/.venv-shapiq/bin/python -m pip install --quiet \
	  --require-hashes -r $<
	touch "$@"

# Pinned, without hashes: which build of PyTorch is at hand differs.
third_party/.venv-torch/.installed: third_party/requirements-torch.txt
	$(if $(python311),,$(error The peers need Python 3.11))
	"$(python311)" -m venv third_party/.venv-torch
	third_party/.venv-torch/bin/python -m pip install --quiet -r $<
	touch "$@"

# The launchers' engines and object stores, of Linux and Python 3.11.
third_party/.venv-cluster/.installed: third_party/requirements-cluster.lock \
    $(setup)
	$(if $(python311),,$(error The cluster suite needs Python 3.11))
	"$(python311)" -m venv third_party/.venv-cluster
	$(call install,third_party/.venv-cluster,$<)
	touch "$@"

pin = uv pip compile --quiet --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header --no-annotate
compile = $(pin) --universal --python-version $(1)
lock:
	$(call compile,3.11) setup.cfg --extra build --extra dev \
	  --extra proxy --extra sweeps -o requirements.lock
	$(call compile,3.11) setup.cfg --extra build -c requirements.lock \
	  -o requirements-core.lock
	$(call compile,3.11) third_party/requirements.txt \
	  -o third_party/requirements.lock
	$(call compile,3.12) third_party/requirements-shapiq.txt \
	  -o third_party/requirements-shapiq.lock
	# botocore and kubernetes have no python-dateutil 4 yet.
	$(pin) --python-version 3.11 --python-platform linux setup.cfg \
	  --extra build third_party/requirements-cluster.txt \
	  -c <(sed -n '/^python-dateutil/d;/==/s/ \\$$//p' requirements.lock) \
	  -o third_party/requirements-cluster.lock
	for name in stores cuda12 tpu; do \
	  $(call compile,3.12) launch/locks/$$name.txt -c <(sed -n \
	    '/^python-dateutil/d;/==/s/ \\$$//p' requirements-core.lock) \
	    -o launch/locks/$$name.lock || exit; done
