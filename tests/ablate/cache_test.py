"""Values kept by path: interruptions, cells that run again, mistakes."""

import functools

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.ablate import cache, closed, evaluate

_N = 12


class _Counted:
  """A function that counts its masks, and may be interrupted."""

  def __init__(self, weight=1.0, stop=None):
    self.weight, self.stop, self.asked = weight, stop, 0

  def __call__(self, masks):
    self.asked += len(masks)
    if self.stop is not None and self.asked > self.stop:
      raise KeyboardInterrupt
    return self.weight * masks.sum(axis=1) + 3.0 * (masks[:, 0] & masks[:, 1])


def _explain(fn, path, n=_N, **settings):
  given = {"budget": 200, "method": "lasso", "cache": path} | settings
  return spex.explain(fn, n, key=jax.random.key(0), **given)


def _asked(fn, path, **settings):
  _explain(fn, path, **settings)
  return fn.asked


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path):
  path = tmp_path / "values.jsonl"
  fn = _Counted(stop=100)
  with pytest.raises(KeyboardInterrupt):
    _explain(fn, path, batch_size=20)
  # 20 a batch: five whole ones are kept; four repeats and anchors besides.
  again = _Counted()
  assert _explain(again, path, batch_size=20).faithfulness > 0.999
  assert again.asked <= 200 - 80 + 8
  once_more = _Counted()
  _explain(once_more, path)
  assert once_more.asked <= 8  # Anchors and repeats.


@pytest.mark.slow
def test_another_function_is_refused(tmp_path):
  path = tmp_path / "values.jsonl"
  _explain(_Counted(), path)
  # The code is the same; what it holds is not.
  with pytest.raises(ValueError, match="another function: those of"):
    _explain(_Counted(weight=2.0), path)
  with pytest.raises(ValueError, match="another function: its players is 12"):
    _explain(_Counted(), path, n=13)
  with pytest.raises(ValueError, match="another function: its name is"):
    _explain(lambda masks: masks.sum(axis=1), path)
  assert _asked(_Counted(), path) <= 8  # Nothing was added to it.


def test_a_function_of_two_values_is_told_from_its_opposite(tmp_path):
  def voted(least):
    return lambda masks: (masks.sum(axis=1) >= least) * 1.0

  path = tmp_path / "values.jsonl"
  _explain(voted(6), path)
  with pytest.raises(ValueError, match="another function"):
    _explain(voted(13), path)  # Never: 0 for all masks.


@pytest.mark.slow
def test_changed_code_is_seen(tmp_path):
  path = tmp_path / "values.jsonl"
  cells = [
    "def value(masks):\n  return masks.sum(axis=1)",
    "# A comment.\n\ndef value(masks):\n  return masks.sum(axis=1)",
    "def value(masks):\n  return masks.sum(axis=1) + masks[:, 11]",
  ]
  found = []
  for cell in cells:
    space = {}
    exec(cell, space)  # As a notebook does.
    found.append(space["value"])
  _explain(found[0], path)
  _explain(found[1], path)
  with pytest.raises(ValueError, match="its code is"):
    _explain(found[2], path)


def test_noise_is_no_other_function(tmp_path):
  rng = np.random.default_rng(0)
  fn = lambda masks: masks.sum(axis=1) + rng.normal(size=len(masks))
  path = tmp_path / "values.jsonl"
  _explain(fn, path)
  assert _explain(fn, path).noise_floor > 0  # Repeats are not read back.


@pytest.mark.slow
def test_several_targets(tmp_path):
  fn = lambda masks: np.stack([masks[:, 0], masks[:, 1]], axis=1) * 1.0
  path = tmp_path / "values.jsonl"
  first, second = (_explain(fn, path) for _ in range(2))
  np.testing.assert_array_equal(first.fourier.coefs, second.fourier.coefs)


def test_a_cell_that_runs_again_takes_the_file(tmp_path):
  path, fn = tmp_path / "values.jsonl", _Counted()
  masks = np.eye(_N, dtype=bool)
  first = evaluate.host(fn, _N, cache=path)
  first(masks)
  second = evaluate.host(fn, _N, cache=path)
  asked = fn.asked
  np.testing.assert_array_equal(second(masks), first(masks))
  assert fn.asked - asked == len(closed.File(path, "").anchors(_N)[0])
  with pytest.raises(ValueError, match="opened again"):
    first(~masks)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "my only copy", "{}"])
def test_a_file_of_something_else_is_left_alone(tmp_path, text):
  path = tmp_path / "data.csv"
  path.write_text(text)
  with pytest.raises(ValueError, match=r"damaged|no file of kept values"):
    _explain(_Counted(), path)
  assert path.read_text() == text


def test_what_a_function_is():
  def fn(masks, scale=1.0):
    return scale * masks.sum(axis=1)

  assert cache.code_of(functools.partial(fn, scale=2)) == cache.code_of(fn)
  assert cache.name_of(_Counted()) == "_Counted"
  assert cache.code_of(_Counted()) != ""
  assert cache.code_of(len) == ""  # Has no code that can be seen.
  assert cache.code_of(jax.jit(fn)) == cache.code_of(fn)


def test_zeros_that_a_power_cut_left_are_cut_off(tmp_path):
  path, fn = tmp_path / "values.jsonl", _Counted()
  _explain(fn, path)
  whole, asked = path.read_bytes(), fn.asked
  path.write_bytes(whole + b"\0" * 512)
  _explain(fn, path)
  assert fn.asked - asked < asked / 2 and path.read_bytes() == whole
