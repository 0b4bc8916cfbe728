"""Less than a whole forward: the last position alone, and a part of blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import generate, hub, sites
from tests.models import checkpoints

_IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]], np.int32)
_GEMMA = checkpoints.relative(
  "gemma2",
  hidden_act="gelu_pytorch_tanh",
  query_pre_attn_scalar=6,
  attn_logit_softcapping=0.7,
  final_logit_softcapping=1.5,
  tie_word_embeddings=True,
  sliding_window=3,
  layer_types=["full_attention", "sliding_attention"],
)
_SETTINGS = {
  "gpt2": checkpoints.GPT2,
  "gpt_neox": checkpoints.NEOX,
  "gemma2": _GEMMA,
}
# The same sums in another order, of relative size 6e-8 each.
_TOLERANCE = 1e-6


@functools.cache
def _load(name, folder):
  return hub.load(checkpoints.make(folder / name, _SETTINGS[name])[0])


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
  folder = tmp_path_factory.mktemp("nets")
  return lambda name: _load(name, folder)


def _all_edited(net, rng):
  """An edit of every position, head and feature at each site of block 1."""
  out = jax.eval_shape(
    lambda: net.apply(net.params, input_ids=_IDS, capture=("blocks.1.*",))
  )
  scale, add = {}, {}
  for site, x in out.activations.items():
    if not site.endswith(("_in", ".scores")):
      scale[site] = rng.uniform(0.5, 1.5, x.shape)
      add[site] = rng.normal(size=(1, *x.shape[1:])) / 10
  return sites.Edits(scale=scale, add=add)


@pytest.mark.slow_where("gemma2", "gpt_neox")
@pytest.mark.parametrize(
  "name, keep, rows",
  [
    ("gemma2", 2, [[4, 5], [4, 5]]),
    ("gpt2", np.array([3]), [[3], [3]]),
    ("gpt_neox", np.array([[1, 5], [4, -4]]), [[1, 5], [4, 2]]),
    # As many as there are: moved at the end, and nothing else.
    ("gpt2", np.arange(6)[::-1], [np.arange(6)[::-1]] * 2),
  ],
)
def test_the_last_block_is_the_same_at_the_positions_kept(
  nets, name, keep, rows
):
  net = nets(name)
  edits = _all_edited(net, np.random.default_rng(0))
  run = lambda keep: net.apply(
    net.params,
    edits,
    input_ids=_IDS,
    logits_to_keep=keep,
    capture=("blocks.1.*", "final_norm*"),
  )
  full, cut = jax.jit(lambda: (run(0), run(keep)))()
  rows = np.asarray(rows)
  pick = lambda x, axis=1, rows=rows: np.stack(
    [np.take(np.asarray(x[b]), at, axis=axis - 1) for b, at in enumerate(rows)]
  )
  expected = pick(full.logits)
  assert checkpoints.difference(cut.logits, expected) < _TOLERANCE
  fewer = rows.shape[1] < 6
  want = pick(full.hidden[-1]) if fewer else full.hidden[-1]
  assert checkpoints.difference(cut.hidden[-1], want) < _TOLERANCE
  assert set(cut.activations) == set(full.activations)
  for site, x in cut.activations.items():
    want = full.activations[site]
    if x.shape != want.shape:
      assert fewer
      axis = 2 if site.endswith(("scores", "pattern")) else 1
      want = pick(want, axis)
    assert checkpoints.difference(x, want) < _TOLERANCE, site
  whole = {s for s, x in cut.activations.items() if 6 in x.shape[1:3]}
  assert "blocks.1.attn.k" in whole and "blocks.1.attn.v" in whole
  assert ("blocks.1.mlp.neurons" in whole) == (not fewer)


def test_the_work_of_the_last_block_is_less(nets):
  net = nets("gpt2")

  def flops(keep):
    run = lambda: (
      net.apply(net.params, input_ids=_IDS, logits_to_keep=keep).logits
    )
    return jax.jit(run).lower().cost_analysis()["flops"]

  # Two blocks, of one of which most is left out at five of six positions.
  assert flops(1) < 0.75 * flops(6)


@pytest.mark.slow
def test_edits_of_other_sizes_are_refused_at_a_cut_site(nets):
  net = nets("gpt2")
  ask = lambda size: net.apply(
    net.params,
    sites.Edits(scale={"blocks.1.mlp.out": jnp.ones((1, size, 1))}),
    input_ids=_IDS,
    logits_to_keep=2,
  )
  for size in (1, 2, 6):
    ask(size)
  with pytest.raises(ValueError, match=r"blocks.1.mlp.out' has shape \(1, 3"):
    ask(3)
  with pytest.raises(ValueError, match="leave out logits_to_keep"):
    net.contributions(net.params, input_ids=_IDS, logits_to_keep=2)
  with pytest.raises(ValueError, match=r"an array \(1, 1, 1\)"):
    net.apply(
      net.params, input_ids=_IDS, logits_to_keep=np.zeros((1, 1, 1), int)
    )


@pytest.mark.slow_where("gpt_neox", "gpt2")
@pytest.mark.parametrize("name", _SETTINGS)
def test_extending_caches_gives_what_a_forward_gives(nets, name):
  net = nets(name)
  mask = np.array([[1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 1, 0]])
  at = np.array([[5, 4], [4, 4]])
  full = net.apply(net.params, input_ids=_IDS, attention_mask=mask)
  expected = np.take_along_axis(np.asarray(full.logits), at[:, :, None], axis=1)

  @jax.jit
  def run(mask, at, start):
    caches = generate.empty_caches(net.config, 2, 6, jnp.float32)
    caches = generate.extend(
      net, net.params, _IDS[:, :2], 0, caches, attention_mask=mask
    ).caches
    ids = _IDS[:, 2:]
    by_number = generate.extend(
      net, net.params, ids, 2, caches, None, at - 2, mask
    )
    by_row = generate.extend(
      net, net.params, ids, start, caches, None, at - 2, mask
    )
    return by_number.logits, by_row.logits

  for logits in run(mask, at, np.array([2, 2])):
    assert checkpoints.difference(logits, expected) < 2 * _TOLERANCE


@pytest.mark.parametrize("name", ["gemma2", "bert", "vit"])
def test_a_forward_in_two_parts_is_one(nets, name):
  if name == "gemma2":
    net, inputs = nets(name), {"input_ids": _IDS, "logits_to_keep": 1}
  else:
    folder = checkpoints.shared("tiny", name)
    net = hub.load(folder)
    inputs, _ = checkpoints.recorded(folder)
  late = "blocks.1.attn.z"
  odd = np.arange(net.config.num_heads)[None, None, :, None] % 2
  edits = sites.Edits(scale={late: odd})
  early = sites.Edits(add={"blocks.0.mlp.out": np.full((1, 1, 1), 0.1)})
  both = sites.Edits(add=early.add, scale=edits.scale)
  whole = net.apply(net.params, both, capture=("blocks.1.*",), **inputs)
  x = net.enter(net.params, 1, early, **inputs)
  rest = net.resume(net.params, 1, x, edits, capture=("blocks.1.*",), **inputs)
  assert checkpoints.difference(rest.logits, whole.logits) < _TOLERANCE
  assert len(rest.hidden) == len(whole.hidden) - 1
  for got, want in zip(rest.hidden, whole.hidden[1:]):
    assert checkpoints.difference(got, want) < _TOLERANCE
  assert set(rest.activations) == set(whole.activations)
  last = net.config.num_blocks
  x = net.enter(net.params, last, both, **inputs)
  rest = net.resume(net.params, last, x, **inputs)
  assert checkpoints.difference(rest.logits, whole.logits) < _TOLERANCE
  with pytest.raises(ValueError, match=r"edited sites \['blocks.0.mlp.out'\]"):
    net.resume(net.params, 1, x, early, **inputs)
  with pytest.raises(ValueError, match=r"edited sites \['blocks.1.attn.z'\]"):
    net.enter(net.params, 1, edits, **inputs)
  with pytest.raises(ValueError, match=f"must lie in 0..{last}; got"):
    net.enter(net.params, last + 1, **inputs)


def test_other_networks_are_not_entered():
  from spex_jax.models import mlp

  net = mlp.network(mlp.Config(num_features=3, num_outputs=2))
  with pytest.raises(TypeError, match="no stack of blocks"):
    net.enter(net.init(jax.random.key(0)), 0, x=np.ones((1, 3)))
