"""Edits of parameters beside edits at inference, in every family."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import base
from spex_jax.ablate import components
from spex_jax.components import editing
from spex_jax.models import adapters, removal
from tests.components import models

Edit = editing.Edit


def _edit(name, players, remove, absent=None):
  net, params, _, _ = models.model(name)
  return Edit.of(net, params, players, remove, absent)


def _some(players, seed=0):
  """A third of the players, at least one."""
  rng = np.random.default_rng(seed)
  return rng.permutation(players.n)[: max(1, players.n // 3)]


_SLOW = {"resnet", "vit", "t5", "gemma", "convnet"}  # To compile.


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else [])
    for name in models.FAMILIES
  ],
)
def test_edited_weights_equal_edits_at_inference(name):
  net, params, _, _ = models.model(name)
  run = models.forward(name)
  whole = None
  for players in models.kinds(name):
    one = _edit(name, players, _some(players))
    # Every kind removes something by itself.
    edited = one.apply(net, params)
    assert not models.same(edited, params)
    whole = one if whole is None else whole | one
  before = jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), params)
  edited = whole.apply(net, params)
  plain, found = run(params), run(edited)
  np.testing.assert_array_equal(found, run(params, whole.edits()))
  assert np.abs(np.asarray(found) - np.asarray(plain)).max() > 1e-3
  # The parameters that were given are as they were.
  assert before == jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), params)


@pytest.mark.parametrize("name", ["convnet", "gpt2", "mlp"])
def test_weights_are_zeroed_by_hand(name):
  net, params, _, at = models.model(name)
  players = {
    "convnet": components.filters,
    "gpt2": components.heads,
    "mlp": components.neurons,
  }[name](at)
  edited = _edit(name, players, [players.n - 1, 1]).apply(net, params)
  expected = jax.tree.map(np.array, params)
  if name == "convnet":
    kernels = [layer["kernel"] for layer in expected["params"]["layers"]]
    kernels[0][1] = 0
    kernels[1][-1] = 0
  elif name == "gpt2":
    expected["blocks_0"]["attn"]["out"]["kernel"][1] = 0
    expected["blocks_1"]["attn"]["out"]["kernel"][-1] = 0
  else:
    expected["layers_1"]["kernel"][1] = 0
    expected["head"]["kernel"][-1] = 0
  assert models.same(edited, expected)


@pytest.mark.parametrize(
  "name", ["convnet", pytest.param("vit", marks=pytest.mark.slow)]
)
def test_a_mean_stands_in(name):
  net, params, inputs, at = models.model(name)
  if name == "convnet":
    players, axes = components.filters(at), (0, 2, 3)
  else:
    players, axes = components.neurons(at), (0, 1)
  captured = net.apply(params, capture=tuple(players.owner), **inputs)
  means = {
    site: np.asarray(x).mean(axis=axes, keepdims=True)
    for site, x in captured.activations.items()
  }
  edit = _edit(name, players, _some(players), means)
  run = models.forward(name)
  plain = np.asarray(run(params))
  found, expected = run(edit.apply(net, params)), run(params, edit.edits())
  # The constant passes other sums: some 30 roundings.
  atol = 100 * np.finfo(np.float32).eps * np.abs(plain).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
  assert np.abs(plain - np.asarray(found)).max() > 10 * atol
  assert "replaced by a constant" in str(edit)


@pytest.mark.slow
def test_a_mean_of_heads_and_outputs_stands_in():
  net, params, inputs, at = models.model("gpt2")
  run = models.forward("gpt2")
  heads, whole = components.heads(at), components.blocks(at)
  names = (*heads.owner, *whole.owner)
  captured = net.apply(params, capture=names, **inputs).activations
  means = {
    site: np.asarray(x).mean(axis=(0, 1), keepdims=True)
    for site, x in captured.items()
  }
  edit = _edit("gpt2", heads, [0, 4], means)
  edit |= _edit("gpt2", whole, [0], means)
  found, expected = run(edit.apply(net, params)), run(params, edit.edits())
  atol = 100 * np.finfo(np.float32).eps * np.abs(np.asarray(expected)).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
  # Where a mean is by position, no weight can hold it.
  by_position = {
    site: np.asarray(x).mean(axis=0, keepdims=True)
    for site, x in captured.items()
  }
  edit = _edit("gpt2", heads, [0], by_position)
  run(params, edit.edits())
  with pytest.raises(ValueError, match="attn.z.*differs along axis 1"):
    edit.apply(net, params)


def test_a_constant_needs_a_bias():
  _, _, _, at = models.model("gemma")
  players = components.neurons(at)
  ones = {site: np.ones((1, 1, 1)) for site in players.owner}
  edit = _edit("gemma", players, [0], ones)
  net, params, _, _ = models.model("gemma")
  with pytest.raises(ValueError, match="no bias behind its weights"):
    edit.apply(net, params)


def test_edits_join_in_any_order():
  _, _, _, at = models.model("convnet")
  players = components.filters(at)
  one, two = _edit("convnet", players, [0, 4]), _edit("convnet", players, [4])
  three = _edit("convnet", players, ["layers.1.conv 5"])
  assert one | two == one == one | one and one != two
  assert one | two | three == three | (two | one)
  assert hash(one | three) == hash(three | one)
  assert (one | three).names == (
    "layers.0.conv 0", "layers.1.conv 1", "layers.1.conv 5",
  )  # fmt: skip
  none = _edit("convnet", players, [])
  assert none | one == one and "0 components" in str(none)
  net, params, _, _ = models.model("convnet")
  assert models.same(none.apply(net, params), params)
  with pytest.raises(TypeError):
    one | "two"


def test_edits_that_contradict_each_other():
  _, _, _, at = models.model("convnet")
  players = components.filters(at)
  ones = {site: np.ones((1, 1, 1, 1)) for site in players.owner}
  zero = _edit("convnet", players, [0, 4])
  one = _edit("convnet", players, [4], ones)
  with pytest.raises(ValueError, match="at 'layers.1.conv' in each"):
    zero | one
  # Elsewhere each keeps its own.
  both = _edit("convnet", players, [3]) | one
  values = both.edits().replace["layers.1.conv"]
  assert values[0].ravel().tolist() == [True, True] + [False] * 4
  assert values[1].ravel().tolist() == [0, 1, 0, 0, 0, 0]
  _, _, _, other = models.model("resnet")
  strange = _edit("resnet", components.filters(other), [0])
  with pytest.raises(ValueError, match="different models: the network is"):
    zero | strange


def test_it_says_what_it_removes():
  _, _, _, at = models.model("gpt2")
  edit = _edit("gpt2", components.heads(at), [0, 2, 5])
  edit |= _edit("gpt2", components.neurons(at), [11])
  lines = str(edit).splitlines()
  assert lines[0].endswith("transformer.Config: 4 components removed")
  assert lines[1].split() == [
    "blocks.0.attn.z", "2", "of", "3", "units,", "replaced", "by", "zero",
  ]  # fmt: skip
  assert lines[-1].strip() == (
    "blocks.0.attn 0, 2; blocks.0.mlp 11; blocks.1.attn 2"
  )


def test_saved_and_loaded(tmp_path):
  net, params, _, at = models.model("resnet")
  players = components.filters(at)
  half = {site: np.full((1, 1, 1, 1), 0.1) for site in players.owner}
  edit = _edit("resnet", players, [0, 1]) | _edit("resnet", players, [5], half)
  path = tmp_path / "edit.json"
  edit.save(path)
  found = Edit.load(path)
  assert found == edit and str(found) == str(edit)
  assert models.same(found.apply(net, params), edit.apply(net, params))
  # A changed byte is seen; so is a file of something else.
  path.write_text(path.read_text().replace('"units": [0, 1]', '"units": [0]'))
  with pytest.raises(ValueError, match="damaged"):
    Edit.load(path)
  path.write_text(json.dumps({"a": 1}))
  with pytest.raises(ValueError, match="damaged: it has no sha256"):
    Edit.load(path)
  base.write_json(path, {"format": "other"})
  with pytest.raises(ValueError, match="holds no edit"):
    Edit.load(path)


def test_another_model_is_refused():
  net, params, _, at = models.model("mlp")
  edit = _edit("mlp", components.neurons(at), [0])
  other = jax.tree.map(np.array, params)
  other["layers_0"]["bias"][2] += 1
  with pytest.raises(ValueError, match="other weights at layers_0/bias. "):
    edit.apply(net, other)
  narrow = dataclasses.replace(net.config, widths=(5, 4))
  wide = dataclasses.replace(net, config=narrow)
  with pytest.raises(ValueError, match=r"widths is \[5, 4\], not \[5, 6\]"):
    edit.apply(wide, params)
  with pytest.raises(ValueError, match="the network is .*resnet.Config"):
    edit.apply(models.model("resnet")[0], params)
  # On purpose it may be brought to a copy.
  moved = edit.bound(net, other).apply(net, other)
  assert not moved["layers_1"]["kernel"][0].any()
  with pytest.raises(ValueError, match="has no sites"):
    edit.bound(models.model("resnet")[0], params)


def test_what_has_no_weights_is_refused():
  net, params, _, at = models.model("gpt2")
  for site, axis, message in (
    ("blocks.0.attn.pattern", 1, "No weight stands .*pattern.*at inference"),
    ("blocks.0.attn.heads", 2, "Remove heads at 'blocks.0.attn.z'"),
    ("blocks.1.resid_mid", 2, "No weight stands"),
    ("blocks.0.attn.z", 1, "units along axis 1"),
  ):
    players = components.units(at, (site,), axis)
    edit = _edit("gpt2", players, [0])
    with pytest.raises(ValueError, match=message):
      edit.apply(net, params)
  with pytest.raises(ValueError, match="no site 'x'"):
    removal.weights(net, "x")


@pytest.mark.parametrize(
  "remove, absent, error, message",
  [
    ([6.5], None, TypeError, "must be an integer"),
    (np.ones(9, bool), None, TypeError, "must be an integer"),
    ([9], None, ValueError, "No player 9 among 9"),
    ([-1], None, ValueError, "No player -1"),
    (["layers.2.conv 0"], None, ValueError, "No player 'layers.2.conv 0'"),
    ([0], {}, ValueError, "lacks activations"),
    ([0], 2, ValueError, "has 2 rows"),
    ([0], np.nan, ValueError, "NaN or infinity"),
  ],
)
def test_bad_requests(remove, absent, error, message):
  _, _, _, at = models.model("convnet")
  players = components.filters(at)
  if isinstance(absent, int):
    absent = {site: np.ones((absent, 1, 1, 1)) for site in players.owner}
  elif isinstance(absent, float):
    absent = {site: np.full((1,) * 4, absent) for site in players.owner}
  with pytest.raises(error, match=message):
    _edit("convnet", players, remove, absent)


def test_bfloat16_and_sharded_parameters():
  net, params, _, at = models.model("gpt2")
  mesh = jax.make_mesh((2,), ("model",), (jax.sharding.AxisType.Auto,))

  def place(path, leaf):
    spec = jax.P("model") if leaf.shape[0] % 2 == 0 else jax.P()
    return jax.device_put(
      leaf.astype(jnp.bfloat16), jax.NamedSharding(mesh, spec)
    )

  split = jax.tree_util.tree_map_with_path(place, params)
  edit = Edit.of(net, split, components.neurons(at), [0, 3, 50])
  edit |= Edit.of(net, split, components.blocks(at), [1])
  edited = edit.apply(net, split)
  plain = jax.tree.map(np.asarray, split)
  expected = edit.apply(net, plain)
  assert models.same(edited, expected)
  for one, other in zip(jax.tree.leaves(edited), jax.tree.leaves(split)):
    assert one.sharding == other.sharding
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(expected))
  # The edit of the float32 model knows that this is another.
  one = _edit("gpt2", components.neurons(at), [0, 3, 50])
  with pytest.raises(ValueError, match="other weights at .* more"):
    one.apply(net, split)


def test_a_module_of_ones_own_says_where_its_weights_are():
  class Own(nn.Module):
    def setup(self):
      self.first, self.second = nn.Dense(3), nn.Dense(2)

    def __call__(self, x):
      return self.second(nn.relu(self.first(x)))

  net = adapters.linen(Own(), {"x": (1, 4)}, {"neurons": "first"})
  params = net.init(jax.random.key(0))
  x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  at = components.shapes(net, params, x=x)
  edit = Edit.of(net, params, components.units(at, ("neurons",), 1), [1])
  with pytest.raises(ValueError, match="of your own: say which"):
    edit.apply(net, params)
  own = {
    "neurons": removal.Weights(
      "out", "params/first/kernel", ((1, 1),), "params/first/bias"
    )
  }
  found = net.apply(edit.apply(net, params, own), x=x).logits
  expected = net.apply(params, edit.edits(), x=x).logits
  np.testing.assert_array_equal(found, expected)
  for change, message in (
    ({"kind": "rows"}, "choose from"),
    ({"kernel": "params/third"}, "have no 'params/third'"),
    ({"kernel": "params/second/kernel"}, "3 units along axis 1 do not fit"),
  ):
    with pytest.raises(ValueError, match=message):
      edit.apply(net, params, {"neurons": own["neurons"]._replace(**change)})
