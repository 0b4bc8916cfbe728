"""Programs with options of a CPU's compiler: the same answers, and counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.fourier import programs


@pytest.fixture
def forgotten():
  """Options are chosen anew, in the test and after it."""
  programs.options.cache_clear()
  yield
  programs.options.cache_clear()


@functools.partial(programs.Program, static_argnames="power")
def _waves(x, *, power):
  """Sums of powers of a sine."""
  return jnp.cumsum(jnp.sin(x) ** power)


def test_answers_are_those_of_numpy():
  x = np.linspace(-3, 3, 100, dtype=np.float32)
  for power in (1, 2):
    expected = np.cumsum(np.sin(x.astype(float)) ** power)
    # A sum of 100 terms of up to 1, each rounded to 2^-24.
    np.testing.assert_allclose(_waves(x, power=power), expected, atol=1e-4)


def test_programs_are_counted():
  program = programs.Program(lambda x: x + 1)
  for size in (3, 3, 4):
    program(np.zeros(size, np.float32))
  assert program.count() == 2


def test_options_are_those_of_a_cpu_that_knows_them(forgotten, monkeypatch):
  on_cpu = jax.default_backend() == "cpu"
  assert programs.options() == (programs._OPTIONS if on_cpu else None)
  programs.options.cache_clear()
  monkeypatch.setattr(programs, "_OPTIONS", {"xla_cpu_no_such_option": 1})
  assert programs.options() is None
  assert programs.Program(lambda x: x + 1)(1) == 2
  programs.options.cache_clear()
  monkeypatch.undo()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert programs.options() is None


def test_no_backend_is_chosen_before_the_first_call(monkeypatch):
  def chosen():
    raise AssertionError("A cluster may not have been joined yet.")

  monkeypatch.setattr(jax, "default_backend", chosen)
  programs.Program(lambda x: x + 1)
