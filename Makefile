# make demo     the main job, in an environment of its own where none is active
# make test     lint, types and all tests; the face also on a second Python
# make test-3.11 test-3.12 test-3.13 test-3.14   all tests on each (slow)
# make parity   our answers beside shapiq's and spectralexplain's (slow: peers)
# make fuzz     random checkpoints beside transformers, 25 of each family (slow: peers)
# make bench    the benchmarks, beside the peers (slow; builds their environment)
# make test-slow    benchmarks at their quick sizes, tests that take long, the docs
# make test-page    the page in a real Chromium (part of test-slow; apt, root once)
# make docs     the documentation in build/docs: stories run, warnings are errors
# make faults   200 flipped bits, 50 kills, bad inputs (slow)
# make test-peers   the tests that run peer packages (slow; the same)
# make peers peers-shapiq peers-torch   the environments of the peers alone
# make test-cluster   a real Slurm, Ray, stores, schemas (slow; Debian, root once)
# make licences    those of all that is locked; fails on one that is not allowed
# make sbom     what is locked for users, as CycloneDX, in build/spex_jax.cdx.json
# make lock     pins every dependency anew, for all Pythons (needs uv: pip install uv)

SHELL := /bin/bash
.DEFAULT_GOAL := help
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What is imported once is compiled once, not by each process that tests start.
export PYTHONDONTWRITEBYTECODE :=

# A shim may exist for a version that is not installed, and a system's Python
# may lack venv, so each is tried.
find = $(shell for python in python$(1) \
    "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1)*/bin/python python3 python; do \
  "$$python" -c 'import ensurepip, sys; \
    sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' \
    2>/dev/null && { command -v "$$python"; break; }; done)

versions := 3.11 3.12 3.13 3.14
$(foreach v,$(versions),$(eval python-$v := $$(call find,$v)))

# The active environment is used if it works, is of a version we support, and
# its path has no space, which make cannot name. Else, ours of that version.
active_version := $(if $(VIRTUAL_ENV),$(shell \
  "$(VIRTUAL_ENV)/bin/python" -c \
    'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
active := $(if $(filter 1,$(words $(VIRTUAL_ENV))),$(if \
  $(filter $(versions),$(active_version)),$(VIRTUAL_ENV)))
ifneq ($(VIRTUAL_ENV),$(active))
  $(info Not used: the active environment $(VIRTUAL_ENV), which lacks Python \
    3.11 to 3.14 or has a space in its path.)
endif
own-3.11 := .venv
$(foreach v,$(filter-out 3.11,$(versions)),$(eval own-$v := .venv$(subst .,,$v)))
$(foreach v,$(versions),$(eval env-$v := \
  $(if $(filter $v,$(active_version)),$(or $(active),$(own-$v)),$(own-$v))))

# All tests run on 3.11, which the peers need too, or else on the newest there
# is, as do lint and types; what depends on versions most runs on the newest.
# The main job runs in the active environment, or in that of the tests.
there := $(foreach v,$(versions),$(if \
  $(python-$v)$(filter $(active),$(env-$v)),$v))
newest := $(lastword 3.11 $(there))
main := $(or $(filter 3.11,$(there)),$(newest))
env_dev := $(env-$(main))
env := $(or $(active),$(env_dev))

setup := setup.cfg pyproject.toml
# Where `make bench` records the games that decoders are compared on.
games ?= build/games
sources := spex_jax tests experiments third_party launch docs
# A lock is whole: nothing is left to resolve. What is imported is compiled then.
install = "$(1)/bin/python" -m pip install --quiet --no-deps --no-compile \
    --require-hashes -r $(2) \
  && "$(1)/bin/python" -m pip install --quiet --no-deps \
    --no-build-isolation -e .

.PHONY: help demo test test-ends check \
  $(versions:%=test-%) test-slow test-page browser faults test-peers bench \
  docs fuzz parity licences sbom lock peers peers-shapiq peers-torch test-cluster

help:
	@sed -n 's/^# //;/^make/p' Makefile

demo: $(env)/.spex-core
	"$(env)/bin/spex" explain

# Two at a time, as most of a run is compilation, on one core: all tests on one
# Python, in parts of some equal cost, the last of which has the folders that no
# other names; on the newest, what depends on versions most: the face, the
# command, files. Programs that were compiled once are shared by all (conftest).
part-1 := $(addprefix tests/,models components)
part-2 := $(addprefix tests/,jobs experiments third_party)
part-3 := $(addprefix tests/,proxies portfolio fourier masks)
part-4 := $(addprefix tests/,ablate influence training datasets indices report)
part-5 := $(addprefix tests/,context circuits agents)
part-6 := $(foreach n,1 2 3 4 5,$(part-$n:%=--ignore=%))
parts := $(addprefix test-part-,5 2 6 1 4 3)  # The longest first.
test: check
	$(MAKE) --no-print-directory --keep-going -j2 \
	  $(if $(filter output-sync,$(.FEATURES)),-Otarget) \
	  $(parts) $(if $(filter-out $(main),$(newest)),test-ends)

.PHONY: $(parts)
$(parts): test-part-%: $(env_dev)/.spex-all
	"$(env_dev)/bin/python" -m pytest $(part-$*)

test-ends: $(env-$(newest))/.spex-all
	"$(env-$(newest))/bin/python" -m pytest tests/store \
	  $(foreach x,api architecture cli packaging readme,tests/$(x)_test.py)

check: $(env_dev)/.spex-all
	"$(env_dev)/bin/ruff" check $(sources)
	"$(env_dev)/bin/ruff" format --check $(sources)
	"$(env_dev)/bin/pyrefly" check \
	  --python-interpreter-path "$(env_dev)/bin/python"

# In the same parts: a process holds only so many optimised programs.
test-slow: browser
	$(MAKE) --no-print-directory --keep-going -j2 \
	  $(if $(filter output-sync,$(.FEATURES)),-Otarget) $(parts:%=slow-%)
	$(MAKE) --no-print-directory docs

.PHONY: $(parts:%=slow-%)
$(parts:%=slow-%): slow-test-part-%: $(env_dev)/.spex-all
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 \
	  "$(env_dev)/bin/python" -m pytest -m slow $(part-$*)

test-page: $(env_dev)/.spex-all browser
	"$(env_dev)/bin/python" -m pytest -m slow tests/report/page_browser_test.py

# Debian's Chromium, or the one that Playwright fetches.
browser: $(env_dev)/.spex-all
	@command -v chromium chromium-browser google-chrome > /dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -qq -y --no-install-recommends chromium; } || \
	  "$(env_dev)/bin/python" -m playwright install chromium

# Nothing is loaded from elsewhere, neither here nor by the pages. A story that
# has not changed is not run again.
docs: docs/.venv/.installed
	docs/.venv/bin/python -m sphinx --fail-on-warning --keep-going --quiet \
	  -b html docs build/docs
	@echo "build/docs/index.html"

# What is injected is told, and what came of it; "slow" and quick ones.
faulty := $(addprefix tests/,faults_test.py bad_inputs_test.py explanation_test.py \
  components/saved_test.py sweeps/crash_test.py \
  experiments/soak_test.py)
faults: $(env_dev)/.spex-all
	"$(env_dev)/bin/python" -m pytest -m faults $(faulty)

test-peers: $(env-3.11)/.spex-all peers peers-shapiq
	"$(env-3.11)/bin/python" -m pytest -m peers

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

parity: $(env-3.11)/.spex-all peers
	"$(env-3.11)/bin/python" -m experiments.parity_shapiq
	"$(env-3.11)/bin/python" -m experiments.parity_spectralexplain

fuzz: $(env-3.11)/.spex-all peers-torch
	rm -rf build/fuzz
	third_party/.venv-torch/bin/python -m third_party.fuzz_models \
	  --output=build/fuzz --each=25
	"$(env-3.11)/bin/python" -m experiments.fuzz_models --folder=build/fuzz

bench: $(env-3.11)/.spex-all peers peers-shapiq
	"$(env-3.11)/bin/python" -m experiments.bench_transform
	"$(env-3.11)/bin/python" -m experiments.bench_indices
	"$(env-3.11)/bin/python" -m experiments.bench_spex
	"$(env-3.11)/bin/python" -m experiments.record_games --output=$(games)
	"$(env-3.11)/bin/python" -m experiments.bench_decoders --games=$(games)
	"$(env-3.11)/bin/python" -m experiments.bench_singles
	"$(env-3.11)/bin/python" -m experiments.bench_evaluate
	"$(env-3.11)/bin/python" -m experiments.spex_removal
	"$(env-3.11)/bin/python" -m experiments.bench_retrain
	"$(env-3.11)/bin/python" -m experiments.bench_components
	rm -rf build/sweep
	"$(env-3.11)/bin/python" -m experiments.bench_sweep --workdir=build/sweep

peers: third_party/.venv/.installed

peers-shapiq: third_party/.venv-shapiq/.installed

peers-torch: third_party/.venv-torch/.installed

define of_version
test-$(1): $(env-$(1))/.spex-all
	"$(env-$(1))/bin/python" -m pytest

$(own-$(1))/bin/python:
	$$(if $$(there),,$$(error Needs Python 3.11, 3.12, 3.13 or 3.14))
	$$(if $$(python-$(1)),,$$(error Needs Python $(1)))
	"$$(python-$(1))" -m venv $(own-$(1)) || { rm -rf $(own-$(1)); exit 1; }

endef
$(foreach v,$(versions),$(eval $(call of_version,$v)))

%/.spex-core: requirements-core.lock $(setup) | %/bin/python
	$(call install,$*,requirements-core.lock)
	touch "$@"

%/.spex-all: requirements.lock $(setup) | %/bin/python
	$(call install,$*,requirements.lock)
	touch "$@" "$*/.spex-core"

third_party/.venv/.installed: third_party/requirements.lock
	$(if $(python-3.11),,$(error The peers need Python 3.11))
	"$(python-3.11)" -m venv third_party/.venv
	third_party/.venv/bin/python -m pip install --quiet --require-hashes -r $<
	touch "$@"

# shapiq from 1.8 on needs Python 3.12.
third_party/.venv-shapiq/.installed: third_party/requirements-shapiq.lock
	$(if $(python-3.12),,$(error shapiq needs Python 3.12))
	"$(python-3.12)" -m venv third_party/.venv-shapiq
	third_party/.venv-shapiq/bin/python -m pip install --quiet \
	  --require-hashes -r $<
	touch "$@"

# Pinned, without hashes: which build of PyTorch is at hand differs.
third_party/.venv-torch/.installed: third_party/requirements-torch.txt
	$(if $(python-3.11),,$(error The peers need Python 3.11))
	"$(python-3.11)" -m venv third_party/.venv-torch
	third_party/.venv-torch/bin/python -m pip install --quiet -r $<
	touch "$@"

# The launchers' engines and object stores, of Linux and Python 3.11.
third_party/.venv-cluster/.installed: third_party/requirements-cluster.lock \
    $(setup)
	$(if $(python-3.11),,$(error The cluster suite needs Python 3.11))
	"$(python-3.11)" -m venv third_party/.venv-cluster
	$(call install,third_party/.venv-cluster,$<)
	touch "$@"

docs/.venv/.installed: docs/requirements.lock $(setup)
	"$(python-$(main))" -m venv docs/.venv
	$(call install,docs/.venv,$<)
	touch "$@"

licences sbom: $(env_dev)/.spex-all
	"$(env_dev)/bin/python" -m third_party.inventory $@ \
	  $(if $(filter sbom,$@),--output=build/spex_jax.cdx.json)

pin = uv pip compile --quiet --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header --no-annotate
compile = $(pin) --universal --python-version $(1)
lock:
	@command -v uv > /dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	$(call compile,3.11) setup.cfg --extra build --extra dev \
	  --extra clients --extra proxy --extra sweeps -o requirements.lock
	$(call compile,3.11) setup.cfg --extra build -c requirements.lock \
	  -o requirements-core.lock
	$(call compile,3.11) setup.cfg --extra build --extra docs \
	  -c requirements.lock -o docs/requirements.lock
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
