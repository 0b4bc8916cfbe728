"""Kernels state their shapes: all of them do, and a wrong one is not traced.

A kernel is a function of a module that computes with `jax.numpy` or `lax`. It
says by `chex` what it takes, unless it is listed below with the reason.
"""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.fourier import folding, gram, high_order, peeling, sparse, tiles
from spex_jax.influence import knn, trak
from spex_jax.masks import bch, hadamard
from spex_jax.proxies import gaussian, growing, reweighted, triangular
from spex_jax.training import learners, solve

_ROOT = pathlib.Path(__file__).resolve().parent.parent / "spex_jax"
_ROOMS = ("masks", "fourier", "proxies", "portfolio", "indices", "influence",
          "training", "components", "datasets", "store", "report")  # fmt: skip
_WORDS = "refuses what does not fit in words meant for users"
_HOST = "runs on the host, around kernels"
_PART = "a part of one kernel, which states the shapes"
_OTHERWISE = {
  "fourier/transform.py:walsh_hadamard": _WORDS,
  "influence/gradient_baselines.py:flatten": _WORDS,
  "influence/metagradients.py:through_training": _WORDS,
  "influence/examples.py:_keys": _PART,
  "influence/examples.py:_cast": _HOST,
  "influence/valuations.py:_one": _PART,
  "training/learners.py:gradient": _WORDS,
  "training/linear.py:ridge": _WORDS,
  "training/linear.py:logistic": _WORDS,
  "training/linear.py:_shared": _WORDS,
  "training/loop.py:train": _WORDS,
  "training/loop.py:steps": _WORDS,
  "training/loop.py:stepwise": _WORDS,
  "training/loop.py:check": _WORDS,
  "training/loop.py:_in_segments": _WORDS,
  "training/resumed.py:train": _WORDS,
  "training/resumed.py:_latest": _HOST,
  "fourier/gram.py:_padded": _HOST,
  "proxies/growing.py:grow_all": _HOST,
  "components/applied.py:_unpacked": _HOST,
  "components/other_scores.py:_along": _WORDS,
  "components/other_scores.py:_place": _WORDS,
  "components/cutting.py:_zeroed": _HOST,
  "masks/bch.py:_xor_sum": _PART,
  "fourier/gram.py:_scan_completions": _PART,
  "fourier/peeling.py:_readings": _PART,
  "proxies/growing.py:_multiply": _PART,
  "training/linear.py:_features": _PART,
}


def _names(node):
  """Dotted names that a piece of code reads: `jnp.where`, `jax.lax`."""
  return {
    f"{part.value.id}.{part.attr}"
    for part in ast.walk(node)
    if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)
  }


def _kernels(source):
  """Name to whether it states its shapes, of every kernel of a module."""
  out = {}
  for node in ast.parse(source).body:
    if isinstance(node, ast.FunctionDef):
      names = _names(node)
      if any(name.startswith(("jnp.", "lax.")) for name in names) or (
        "jax.lax" in names
      ):
        out[node.name] = any(name.startswith("chex.assert_") for name in names)
  return out


def test_every_kernel_states_its_shapes():
  found = {
    f"{path.relative_to(_ROOT).as_posix()}:{name}": stated
    for room in _ROOMS
    for path in sorted((_ROOT / room).glob("*.py"))
    for name, stated in _kernels(path.read_text()).items()
  }
  silent = {name for name, stated in found.items() if not stated}
  assert not silent - set(_OTHERWISE), (
    "state what these take, by chex.assert_shape, assert_rank, assert_type: "
    f"{sorted(silent - set(_OTHERWISE))}"
  )
  stale = sorted(set(_OTHERWISE) - silent)
  assert not stale, f"no longer silent, strike them: {stale}"
  share = 1 - len(silent) / len(found)
  assert share >= 2 / 3, (
    f"{share:.0%} of {len(found)} kernels state their shapes"
  )


def test_a_planted_kernel_is_seen():
  source = (
    "def a(x):\n  return jnp.sin(x)\n"
    "def b(x):\n  chex.assert_rank(x, 1)\n  return jax.lax.rsqrt(x)\n"
    "def c(x):\n  return np.sin(x)\n"
  )
  assert _kernels(source) == {"a": False, "b": True}


_CODE = bch.make_code(10, 2)
_TABLES = folding.Geometry(
  bins=np.zeros((11, 3), np.int32),
  delays=np.zeros((11, 1 + _CODE.num_rows), bool),
  offsets=np.zeros((11, 3), bool),
  code=_CODE,
)
_SETTINGS = peeling.Settings(capacity=8)
_ROWS = _CODE.num_rows


def _f(*shape, dtype=np.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def _i(*shape):
  return _f(*shape, dtype=np.int32)


def _b(*shape):
  return _f(*shape, dtype=np.bool_)


def _peel(bins, players, used):
  return peeling.peel(_TABLES, bins, players, used, _SETTINGS)


def _kernel(left, right):
  params = jax.tree.map(lambda x: jnp.asarray(x, np.float32), gaussian.start(4))
  return gaussian.kernel(params, left, right)


def _reweighted(signs, values, characters, more):
  params = jax.tree.map(lambda x: jnp.asarray(x, np.float32), gaussian.start(4))
  return reweighted.condition(params, signs, values, characters, more)


def _tree(bits, columns, residual, weight, allowed):
  settings = growing.Settings(0.1, 1.0)
  return growing.grow_tree(
    bits, columns, residual, weight, allowed, settings, 2
  )


def _expansion(masks):
  return sparse.evaluate(sparse.SparseFourier.from_terms(4, {(0, 1): 1}), masks)


# A kernel, arguments that fit, and for some of them what does not.
_KERNELS = {
  "bch.find_players": (
    lambda *a: bch.find_players(_CODE, *a), [_i(3, 5), _i(5)],
    [[_i(2, 5), _i(5)], [_i(3, 5), _i(4)], [_f(3, 5), _i(5)]],
  ),
  "hadamard.fold_players": (
    hadamard.fold_players, [_b(5, 2), _i(3)], [[_b(5, 2), _i(1, 3)],
                                               [_b(5, 2), _f(3)]],
  ),
  "gram.scan": (
    lambda s, r: gram.scan(s, r, 2), [_f(9, 4), _f(9)],
    [[_f(9, 4), _f(8)], [_f(9, 4), _f(9, 1)], [_b(9, 4), _f(9)]],
  ),
  "high_order.scan": (
    high_order.scan, [_f(9, 4), _f(9), _i(2, 8, 3), _i(1024, 2), _i(2)],
    [[_f(9, 4), _f(8), _i(2, 8, 3), _i(1024, 2), _i(2)],
     [_f(9, 4), _f(9), _i(8, 3), _i(1024, 2), _i(2)],
     [_f(9, 4), _f(9), _f(2, 8, 3), _i(1024, 2), _i(2)]],
  ),
  "peeling.peel": (
    _peel, [_f(3, 4, 1 + _ROWS), _i(8, 2), _b(8)],
    [[_f(2, 4, 1 + _ROWS), _i(8, 2), _b(8)],
     [_f(3, 4, 1 + _ROWS), _i(9, 2), _b(9)],
     [_f(3, 4, 1 + _ROWS), _i(8, 2), _i(8)]],
  ),
  "sparse.evaluate": (_expansion, [_b(6, 4)], [[_b(6, 5)], [_b(4)]]),
  "tiles._times": (tiles._times, [_f(2, 3), _f(3, 2)], [[_f(2, 3), _f(3)]]),
  "gaussian.kernel": (
    _kernel, [_f(6, 4), _f(3, 4)], [[_f(6, 4), _f(3, 5)], [_i(6, 4), _f(3, 4)]],
  ),
  "reweighted.condition": (
    _reweighted, [_f(6, 4), _f(6), _f(6, 2), _f(2)],
    [[_f(6, 4), _f(5), _f(6, 2), _f(2)], [_f(6, 4), _f(6), _f(6, 2), _f(3)]],
  ),
  "growing.grow_tree": (
    _tree,
    [_f(6, 4), _f(5, 6, dtype=np.uint8), _f(6), _f(6), _b(4)],
    [[_f(6, 4), _f(4, 6, dtype=np.uint8), _f(6), _f(6), _b(4)],
     [_f(6, 4), _f(5, 6, dtype=np.uint8), _f(6), _f(6, 1), _b(4)],
     [_f(6, 4), _f(5, 6, dtype=np.uint8), _f(6), _f(6), _f(4)]],
  ),
  "triangular.invert": (
    triangular.invert, [_f(4, 4)], [[_f(4, 3)], [_i(4, 4)]],
  ),
  "knn._shapley": (
    lambda *a: knn._shapley(*a, neighbours=1), [_f(5, 2), _f(3, 2), _b(3, 5)],
    [[_f(5, 2), _f(3, 4), _b(3, 5)], [_f(5, 2), _f(3, 2), _b(5, 3)]],
  ),
  "trak.project": (
    lambda v: trak.project(jax.random.key(0), v, 2), [_f(3, 4)],
    [[_f(4)], [_i(3, 4)]],
  ),
  "learners.outputs": (
    learners.outputs, [_f(3, 4), _i(3)], [[_f(3, 4), _i(2)], [_f(3, 4), _f(3)]],
  ),
  "solve.positive_definite": (
    solve.positive_definite, [_f(3, 3), _f(3, 1)],
    [[_f(3, 4), _f(3, 1)], [_f(3, 3), _f(3)], [_f(3, 3), _i(3, 1)]],
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", _KERNELS)
def test_what_does_not_fit_is_refused_when_traced(name):
  kernel, fits, others = _KERNELS[name]
  jax.eval_shape(kernel, *fits)
  for other in others:
    with pytest.raises(AssertionError, match=r"\[Chex\] Assertion assert_"):
      jax.eval_shape(kernel, *other)
