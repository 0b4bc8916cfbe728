"""Strict switches for every test; the library itself sets none of them."""

import os
import pathlib

import hypothesis
import jax
import pytest

from spex_jax.report import progress
from spex_jax.sweeps import task

# Most of a test is compilation. What was compiled once, by another test, in
# another process or yesterday, is read from disk; traces are made all the same.
# In the environment too, for the processes that tests start.
jax.config.update(
  "jax_compilation_cache_dir",
  os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).resolve().parents[1] / "build" / "jax"),
  ),
)
jax.config.update(
  "jax_persistent_cache_min_compile_time_secs",
  float(
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  ),
)
# Most programs run once or twice: to optimise them costs a quarter more than it
# saves. `make test-slow` runs them as users do.
_QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
# Broadcasting of ranks must be written out.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Eight devices on one CPU, so that sharding is tested everywhere.
jax.config.update("jax_num_cpu_devices", 8)

# Examples depend on the test alone, so that a failure repeats.
hypothesis.settings.register_profile(
  "spex", deadline=None, max_examples=30, derandomize=True, database=None
)
hypothesis.settings.load_profile("spex")


def pytest_terminal_summary(terminalreporter, config):
  """Tells the faults that were injected and found, under `make faults`."""
  if config.getoption("markexpr") != "faults":
    return
  terminalreporter.section("faults found")
  for report in terminalreporter.stats.get("passed", ()):
    for name, text in report.user_properties:
      if name == "fault":
        terminalreporter.write_line(text)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  # What a compiled program costs is asked of an optimised one.
  quick = _QUICK and "cost" not in item.path.stem
  jax.config.update("jax_disable_most_optimizations", quick)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """What `slow_where` names is slow: before `-m` is applied."""
  for item in items:
    for mark in item.iter_markers("slow_where"):
      if any(part in item.callspec.id for part in mark.args):
        item.add_marker(pytest.mark.slow)


@pytest.fixture
def float64():
  """JAX computes in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module", autouse=True)
def _programs():
  """Optimised programs are large: one file's are given up after it.

  Linux allows a process some 65,000 mappings; beyond, XLA ends with a fault.
  """
  yield
  if not _QUICK:
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
  """No line of progress appears because a test's machine is slow."""
  monkeypatch.setattr(progress, "_SECONDS", 3600.0)
  monkeypatch.setattr(progress, "_QUIET_SECONDS", 3600.0)
  # Nor is there anything to wait for.
  monkeypatch.setattr(task, "BACKOFF", 0.0)


@pytest.fixture
def stranger(tmp_path):
  """Until the test ends, root is nobody: no permission stops root.

  Asked for by `request.getfixturevalue("stranger")`, once all is laid out.
  """
  top = tmp_path
  while top != top.parent:  # pytest's own folders are for their owner alone.
    if top.owner() == "root" == tmp_path.owner():
      top.chmod(top.stat().st_mode | 0o555)
    top = top.parent
  if os.geteuid():
    yield
    return
  os.seteuid(65534)
  try:
    yield
  finally:
    os.seteuid(0)
