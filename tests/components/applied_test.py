"""Edits in force: undone bit for bit, in any order, from a file too."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import base
from spex_jax.ablate import components
from spex_jax.components import editing
from tests.components import models

Applied = editing.Applied


def _three(name="gpt2", params=None):
  """Edits that overlap, one of which has a mean stand in."""
  net, own, _, at = models.model(name)
  params = own if params is None else params
  heads, neurons = components.heads(at), components.neurons(at)
  means = {site: np.full((1, 1, 1, 1), 0.25) for site in heads.owner}
  make = editing.Edit.of
  return (
    net,
    params,
    [
      make(net, params, heads, [0, 3], means)
      | make(net, params, neurons, [1, 2]),
      make(net, params, neurons, [2, 60]),
      make(net, params, components.blocks(at), [1]),
    ],
  )


def test_applied_and_undone_in_every_order():
  net, params, edits = _three()
  # Minus zero and a payload of NaN come back, too.
  odd = jax.tree.map(np.array, params)
  odd["blocks_0"]["mlp"]["down"]["kernel"][2, :2] = [-0.0, np.nan]
  odd = jax.tree.map(jnp.asarray, odd)
  edits = [edit.bound(net, odd) for edit in edits]
  alone = [edit.apply(net, odd) for edit in edits]
  every = (edits[0] | edits[1] | edits[2]).apply(net, odd)
  for there in itertools.permutations(range(3)):
    applied = Applied.of(net, odd)
    for i in there:
      applied = applied.also(edits[i])
    assert models.same(applied.params, every)
    for back in itertools.permutations(range(3)):
      left = applied
      for i in back[:2]:
        left = left.undo(edits[i])
      assert models.same(left.params, alone[back[2]])
      left = left.undo(edits[back[2]])
      assert models.same(left.params, odd) and not left.taken
    assert models.same(applied.undo().params, odd)
  # The same edit twice is one; what nothing was taken from is not copied.
  twice = Applied.of(net, odd, edits[1], edits[1]).also(edits[1])
  assert twice.edits == (edits[1],)
  assert twice.params["tokens"]["table"] is odd["tokens"]["table"]


def test_bfloat16_comes_back():
  net, params, _, _ = models.model("gpt2")
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  net, params, edits = _three(params=params)
  applied = Applied.of(net, params, *edits)
  assert not models.same(applied.params, params)
  assert models.same(applied.undo().params, params)


def test_saved_and_undone_later(tmp_path):
  net, params, edits = _three()
  applied = Applied.of(net, params, *edits)
  path = tmp_path / "applied.json"
  applied.save(path)
  edited = jax.tree.map(np.asarray, applied.params)
  found = Applied.load(path, net, edited)
  assert found.edits == applied.edits and str(found) == str(applied)
  assert models.same(found.undo().params, params)
  assert models.same(
    found.undo(edits[0], edits[2]).params, edits[1].apply(net, params)
  )
  with pytest.raises(ValueError, match="blocks_0/.* differ from those that"):
    Applied.load(path, net, params)
  path.write_text(path.read_text().replace('"axes": [0]', '"axes": [1]'))
  with pytest.raises(ValueError, match="damaged"):
    Applied.load(path, net, edited)
  base.write_json(path, {"format": "spex_jax.edit/1"})
  with pytest.raises(ValueError, match="holds no applied edits"):
    Applied.load(path, net, edited)


def test_what_is_refused():
  net, params, edits = _three()
  applied = Applied.of(net, params, edits[0])
  with pytest.raises(ValueError, match="Not in force: Edit of"):
    applied.undo(edits[1])
  with pytest.raises(ValueError, match="other weights at blocks_0"):
    Applied.of(net, applied.params, edits[1])
  other, _, _, at = models.model("mlp")
  strange = editing.Edit.of(
    other, models.model("mlp")[1], components.neurons(at), [0]
  )
  for start in (applied, applied.undo()):
    with pytest.raises(ValueError, match="for another model"):
      start.also(strange)
  assert str(applied.undo()) == "No edits in force."
