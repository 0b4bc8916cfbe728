"""Taps, edits and patterns on a network of two sites, by hand."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import checks, sites


class _Halver(nn.Module):
  """`x` `[B, 3]` halved, then summed: sites `halves` and `sums`."""

  @nn.compact
  def __call__(self, tap, x):
    weight = self.param("weight", nn.initializers.constant(0.5), ())
    x = tap("halves", x * weight)
    return tap("sums", x.sum(axis=1, keepdims=True)), (x,)


_NETWORK = sites.Network(
  module=_Halver(),
  config=None,
  sites=("halves", "sums"),
  example={"x": jax.ShapeDtypeStruct((1, 3), jnp.float32)},
  no_edges="two sites have no edges to cut.",
)
_X = np.float32([[2, 4, 6], [8, 10, 12]])


def _run(edits=None, **kwargs):
  params = _NETWORK.init(jax.random.key(0))
  return _NETWORK.apply(params, edits, x=_X, **kwargs)


def test_the_plain_forward():
  out = _run(capture=("halves",))
  np.testing.assert_array_equal(out.logits, [[6], [15]])
  np.testing.assert_array_equal(out.activations["halves"], _X / 2)
  np.testing.assert_array_equal(out.hidden[0], _X / 2)
  assert set(out.activations) == {"halves"}


def test_replace_then_scale_then_add():
  edits = sites.Edits(
    replace={"halves": (np.array([[True, False, False]]), np.full((1, 1), 7))},
    scale={"halves": np.full((1, 1), 10)},
    add={"halves": np.array([[1], [2]])},
  )
  out = _run(edits, capture=("*",))
  # (7, x / 2, x / 2) times 10, plus 1 or 2; whole numbers, so exactly.
  expected = [[71, 21, 31], [72, 52, 62]]
  np.testing.assert_array_equal(out.activations["halves"], expected)
  np.testing.assert_array_equal(out.logits, [[123], [186]])
  assert edits.sites == {"halves"}


def test_later_sites_see_the_edit_and_earlier_ones_do_not():
  edits = sites.Edits(add={"sums": np.ones((1, 1))})
  out = _run(edits, capture=("*",))
  np.testing.assert_array_equal(out.activations["halves"], _X / 2)
  np.testing.assert_array_equal(out.logits, [[7], [16]])


def test_an_edit_keeps_the_dtype_of_the_activation():
  tap = sites.Tap(
    sites.Edits(
      replace={"s": (np.ones((1,), bool), np.array([1.5]))},
      scale={"s": np.array([2], np.int32)},
      add={"s": np.array([True])},
    ),
    frozenset({"s"}),
  )
  out = tap("s", jnp.zeros(2, jnp.bfloat16))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(out.astype(np.float32), [4, 4])
  assert tap.activations["s"] is out


def test_edits_are_a_pytree():
  edits = sites.Edits(scale={"halves": np.ones((1, 3))})
  assert len(jax.tree.leaves(edits)) == 1
  masks = np.array([[True, False, True], [False, False, False]])

  def ablated(mask):
    return _run(sites.Edits(scale={"halves": mask[None]})).logits

  got = jax.vmap(ablated)(masks)
  np.testing.assert_array_equal(got[..., 0], [[4, 10], [0, 0]])


@pytest.mark.parametrize(
  "edit, shape",
  [
    ({"scale": {"halves": np.ones(3)}}, (3,)),  # Not of full rank.
    ({"scale": {"halves": 2.0}}, ()),
    ({"add": {"halves": np.ones((1, 2))}}, (1, 2)),
    ({"add": {"halves": np.ones((3, 3))}}, (3, 3)),
    ({"add": {"halves": np.ones((1, 1, 3))}}, (1, 1, 3)),
    (
      {"replace": {"halves": (np.ones(3, bool), np.ones((1, 3)))}},
      (3,),
    ),
    (
      {"replace": {"halves": (np.ones((1, 3), bool), np.ones(()))}},
      (),
    ),
  ],
)
def test_edits_that_do_not_fit_are_refused_by_site(edit, shape):
  (kind,) = edit
  message = (
    rf"Edit `{kind}.*` at site 'halves' has shape {re.escape(str(shape))}; "
    r"the activation has \(2, 3\)\. Give every axis, 1 where broadcast"
  )
  with pytest.raises(ValueError, match=message):
    _run(sites.Edits(**edit))


def test_the_message_says_which_half_of_a_replacement_is_wrong():
  where, value = np.ones((1, 3), bool), np.ones((1, 3))
  for pair, half in (
    ((where[0], value), "where"),
    ((where, value[0]), "value"),
  ):
    with pytest.raises(ValueError, match=rf"`replace \({half}\)`"):
      _run(sites.Edits(replace={"halves": pair}))


def test_an_unknown_site_is_refused_with_those_that_come_close():
  with pytest.raises(ValueError) as error:
    _run(sites.Edits(scale={"halvs": np.ones((1, 1))}))
  assert str(error.value) == (
    "No such site: ['halvs']. Did you mean halves? "
    "Sites are ['halves', 'sums']."
  )
  with pytest.raises(ValueError) as error:
    _run(sites.Edits(scale={"qqq": np.ones((1, 1))}))
  assert str(error.value) == (
    "No such site: ['qqq']. Sites are ['halves', 'sums']."
  )


@pytest.mark.parametrize(
  "patterns, expected",
  [
    ((), set()),
    (("*",), {"a.0", "a.1", "b"}),
    (("a.?",), {"a.0", "a.1"}),
    (("a.1", "?"), {"a.1", "b"}),
    (["b", "b"], {"b"}),
  ],
)
def test_patterns(patterns, expected):
  assert checks.match(("a.0", "a.1", "b"), patterns) == expected


def test_every_pattern_must_name_a_site():
  with pytest.raises(ValueError, match=r"'c\*' names no site\. Sites are"):
    checks.match(("a.0", "b"), ("b", "c*"))
  with pytest.raises(ValueError, match=r"'a\.9' names no site\. Did you mean"):
    checks.match(("a.0", "b"), ("a.9",))
  with pytest.raises(ValueError, match=r"takes patterns; write \('b',\)"):
    checks.match(("a.0", "b"), "b")


def test_edges_and_other_inputs_are_refused():
  for edits in (sites.Edits(cut={"sums": 1}), sites.Edits(ref=1)):
    with pytest.raises(ValueError, match="cut here: two sites have no edges"):
      _run(edits)
  with pytest.raises(TypeError, match="must be sites.Edits; got dict"):
    _run({})
  params = _NETWORK.init(jax.random.key(0))
  with pytest.raises(TypeError, match=r"must be \['x'\]; got \['x', 'y'\]"):
    _NETWORK.apply(params, x=_X, y=_X)
  with pytest.raises(TypeError, match=r"must be \['x'\]; got \[\]"):
    _NETWORK.apply(params)
