"""Causal language models against NumPy in float64, and their edits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import hub, sites
from tests.models import checkpoints, reference

_IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]], np.int32)

# Two blocks of sums of at most 48 products, and norms: some hundred float32
# roundings of relative size 6e-8 in a row, mostly of random sign; programs that
# are not optimised sum one by one.
_TOLERANCE = 1e-5

_GEMMA = checkpoints.relative(
  "gemma2",
  hidden_act="gelu_pytorch_tanh",
  hidden_activation="gelu_pytorch_tanh",
  query_pre_attn_scalar=6,
  attn_logit_softcapping=0.7,
  final_logit_softcapping=1.5,
  tie_word_embeddings=True,
  sliding_window=3,
  layer_types=["sliding_attention", "full_attention"],
)
_LLAMA3 = {
  "rope_type": "llama3",
  "factor": 4.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 64,
}
_VARIANTS = {
  "gpt2": checkpoints.GPT2,
  "gpt_neox": checkpoints.NEOX,
  "gpt_neox in sequence": checkpoints.NEOX | {"use_parallel_residual": False},
  "llama": checkpoints.LLAMA,
  "llama tied": checkpoints.LLAMA | {"tie_word_embeddings": True},
  "llama with biases": checkpoints.LLAMA | {"attention_bias": True},
  "llama stretched": checkpoints.LLAMA
  | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
  "llama 3.1": checkpoints.LLAMA | {"rope_scaling": _LLAMA3},
  "mistral": checkpoints.relative("mistral", sliding_window=None),
  "mistral sliding": checkpoints.relative("mistral", sliding_window=3),
  "qwen2": checkpoints.relative("qwen2"),
  "qwen3": checkpoints.relative("qwen3"),
  "phi3": checkpoints.relative("phi3", sliding_window=5),
  "gemma2": _GEMMA,
}


@pytest.mark.parametrize("settings", _VARIANTS.values(), ids=_VARIANTS)
def test_logits_equal_the_reference(settings):
  net, tensors = checkpoints.compiled(settings)
  out = net.apply(net.params, input_ids=_IDS)
  expected = np.stack(
    [reference.logits(settings, tensors, ids) for ids in _IDS]
  )
  assert checkpoints.difference(out.logits, expected) < _TOLERANCE


@pytest.mark.slow_where("settings0")
@pytest.mark.parametrize("settings", [checkpoints.LLAMA, _GEMMA])
def test_every_site_is_edited_as_the_reference_edits_it(settings):
  net, tensors = checkpoints.compiled(settings)
  plain = net.apply(net.params, input_ids=_IDS[:1], capture=("*",))
  assert set(plain.activations) == set(net.sites)
  names = []
  reference.llama(
    settings, tensors, _IDS[0], lambda site, x: names.append(site) or x
  )
  assert len(names) > 20 and set(names) <= set(net.sites)
  rng = np.random.default_rng(5)

  # One program: an edit at every site, of which one does something.
  def factors(site, live):
    shape = plain.activations[site].shape
    # The summand is one for all heads, where there are heads.
    flat = (1, *[1] * (len(shape) - 2), shape[-1])
    if live:
      return rng.normal(size=(1, *shape[1:])), rng.normal(size=flat)
    return np.ones((1, *shape[1:])), np.zeros(flat)

  for name in names:
    pairs = {site: factors(site, site == name) for site in names}
    edits = sites.Edits(
      scale={site: scale for site, (scale, _) in pairs.items()},
      add={site: add for site, (_, add) in pairs.items()},
    )

    def edit(site, x, pairs=pairs):
      scale, add = pairs[site]
      return x * scale[0] + add[0]

    out = net.apply(net.params, edits, input_ids=_IDS[:1])
    expected, hidden = reference.llama(settings, tensors, _IDS[0], edit)
    assert checkpoints.difference(out.logits[0], expected) < 4 * _TOLERANCE
    for got, want in zip(out.hidden, hidden):
      assert checkpoints.difference(got[0], want) < 4 * _TOLERANCE
    assert np.abs(out.logits - plain.logits).max() > 1e-4, name


def test_sites_are_called_in_the_order_in_which_they_are_listed():
  for settings in _VARIANTS.values():
    net, _ = checkpoints.compiled(settings)
    tap = sites.Tap(None, frozenset(net.sites))
    shape = lambda p, tap=tap, net=net: net.module.apply(
      {"params": p}, tap, input_ids=_IDS
    )
    jax.eval_shape(shape, net.params)
    assert tuple(tap.activations) == net.sites


def test_head_sites_agree_with_each_other():
  net, _ = checkpoints.compiled(_GEMMA)
  out = net.apply(net.params, input_ids=_IDS, capture=("blocks.0.*",))
  got = {name[9:]: x for name, x in out.activations.items()}
  # No bias in Gemma: the heads add up to the output, before and after norm.
  for parts, whole in (
    ("attn.heads", "attn.out"),
    ("attn.heads_post_norm", "attn.post_norm"),
  ):
    assert checkpoints.difference(got[parts].sum(2), got[whole]) < 1e-6
  pattern = np.asarray(got["attn.pattern"])
  np.testing.assert_allclose(pattern.sum(-1), 1, rtol=0, atol=1e-6)
  # The window of 3: the query, and the two before it.
  query, key = np.ogrid[:8, :8]
  outside = (key > query) | (key <= query - 3)
  assert not pattern[:, :, outside].any()
  assert (pattern[:, :, ~outside] > 0).all()
  assert got["attn.scores"].shape == pattern.shape
  assert np.abs(np.asarray(got["attn.scores"])).max() < 0.70001  # The cap.
  for kind, rows in (("q", 4), ("k", 2), ("v", 2)):
    assert got[f"attn.{kind}_in"].shape == (2, 8, rows, 12)
    for row in range(rows):
      np.testing.assert_array_equal(
        got[f"attn.{kind}_in"][:, :, row], got["resid_pre"]
      )


@pytest.mark.slow
def test_zeroed_heads_by_z_and_by_heads_are_the_same():
  for settings in (checkpoints.LLAMA, _GEMMA):
    net, _ = checkpoints.compiled(settings)
    mask = np.array([1.0, 0, 1, 0]).reshape(1, 1, 4, 1)
    outs = [
      net.apply(
        net.params,
        sites.Edits(scale={f"blocks.1.attn.{site}": mask}),
        input_ids=_IDS,
      ).logits
      for site in ("z", "heads")
    ]
    assert checkpoints.difference(*outs) < _TOLERANCE


def test_split_inputs_equal_the_plain_path_and_can_differ_by_head():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  plain = net.apply(net.params, input_ids=_IDS, capture=("blocks.1.attn.q",))
  ones = sites.Edits(scale={"blocks.1.attn.q_in": np.ones((1, 1, 4, 1))})
  same = net.apply(net.params, ones, input_ids=_IDS)
  assert checkpoints.difference(same.logits, plain.logits) < _TOLERANCE
  shift = np.zeros((1, 1, 4, 12))
  shift[0, 0, 2] = 1
  edits = sites.Edits(add={"blocks.1.attn.q_in": shift})
  out = net.apply(
    net.params, edits, input_ids=_IDS, capture=("blocks.1.attn.?",)
  )
  changed = (
    out.activations["blocks.1.attn.q"] - (plain.activations["blocks.1.attn.q"])
  )
  moved = np.abs(np.asarray(changed)).max((0, 1, 3)) > 1e-3
  assert moved.tolist() == [False, False, True, False]


def test_an_edit_off_the_path_is_refused():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  edits = sites.Edits(
    add={
      "blocks.1.attn.q_in": np.ones((1, 1, 1, 1)),
      "blocks.1.attn.in": np.ones((1, 1, 1)),
    }
  )
  with pytest.raises(ValueError, match=r"passed .*'blocks.1.attn.in'.*q_in"):
    net.apply(net.params, edits, input_ids=_IDS)


def test_padding_changes_nothing_before_it():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  mask = np.ones_like(_IDS)
  mask[1, 5:] = 0
  out = net.apply(net.params, input_ids=_IDS, attention_mask=mask)
  short = net.apply(net.params, input_ids=_IDS[1:, :5])
  assert checkpoints.difference(out.logits[1, :5], short.logits[0]) < 1e-6
  # On the left, positions still count from the first token, given or not.
  mask = np.ones_like(_IDS)
  mask[:, :2] = 0
  left = net.apply(net.params, input_ids=_IDS, attention_mask=mask)
  assert np.isfinite(left.logits).all()
  positions = np.tile(np.arange(8), (2, 1)) - 2
  short = net.apply(net.params, input_ids=_IDS[:, 2:])
  moved = net.apply(
    net.params,
    input_ids=_IDS,
    attention_mask=mask,
    position_ids=np.maximum(positions, 0),
  )
  # Rotary attention depends on differences of positions alone.
  for got in (left.logits, moved.logits):
    assert checkpoints.difference(got[:, 2:], short.logits) < _TOLERANCE


def test_learned_positions_follow_position_ids():
  net, _ = checkpoints.compiled(checkpoints.GPT2)
  mask = np.ones_like(_IDS)
  mask[:, :2] = 0
  positions = np.maximum(np.tile(np.arange(8), (2, 1)) - 2, 0)
  got = net.apply(
    net.params, input_ids=_IDS, attention_mask=mask, position_ids=positions
  )
  short = net.apply(net.params, input_ids=_IDS[:, 2:])
  left = net.apply(net.params, input_ids=_IDS, attention_mask=mask)
  assert checkpoints.difference(got.logits[:, 2:], short.logits) < _TOLERANCE
  assert checkpoints.difference(left.logits[:, 2:], short.logits) > 1e-2


def test_only_the_logits_asked_for():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  full = net.apply(net.params, input_ids=_IDS).logits
  last = jax.jit(
    lambda params: net.net.apply(params, input_ids=_IDS, logits_to_keep=1)
  )(net.params).logits
  some = net.apply(
    net.params, input_ids=_IDS, logits_to_keep=np.array([2, 5])
  ).logits
  # Under jit a number would be a traced scalar: refused, not misread.
  with pytest.raises(
    ValueError, match=r"static int, int \[k\] or int .*got an array \(\)"
  ):
    net.apply(net.params, input_ids=_IDS, logits_to_keep=1)
  assert last.shape == (2, 1, 17) and some.shape == (2, 2, 17)
  assert checkpoints.difference(last, full[:, -1:]) < _TOLERANCE
  assert checkpoints.difference(some, full[:, [2, 5]]) < _TOLERANCE


def test_vmap_over_masks_equals_a_loop_and_compiles_once():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  masks = np.random.default_rng(1).random((5, 2, 4)) < 0.5

  def value(mask):
    scale = {
      f"blocks.{number}.attn.z": mask[number][None, None, :, None]
      for number in range(2)
    }
    return net.apply(
      net.params, sites.Edits(scale=scale), input_ids=_IDS[:1]
    ).logits[0, -1]

  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(value, n=1))
  looped = np.stack([one(mask) for mask in masks])
  batched = jax.jit(jax.vmap(value))(jnp.asarray(masks))
  assert checkpoints.difference(batched, looped) < _TOLERANCE


def test_bfloat16_stays_bfloat16_and_close(tmp_path):
  folder, _ = checkpoints.make(tmp_path / "model", _GEMMA)
  narrow = checkpoints.Compiled(hub.load(folder, dtype=jnp.bfloat16))
  wide, _ = checkpoints.compiled(_GEMMA)
  out = narrow.apply(narrow.params, input_ids=_IDS, capture=("*",))
  wider = {"blocks.0.attn.scores", "blocks.1.attn.scores"}
  for name, x in out.activations.items():
    assert x.dtype == (jnp.float32 if name in wider else jnp.bfloat16), name
  expected = wide.apply(wide.params, input_ids=_IDS).logits
  # Some 50 roundings of relative size 2^-9 that add up in squares give 0.014;
  # norms and softmax make a few times more of it.
  error = np.asarray(out.logits, np.float64) - np.asarray(expected)
  assert np.sqrt(np.square(error).mean()) < 0.1 * np.asarray(expected).std()


@pytest.mark.parametrize(
  "inputs, error, message",
  [
    ({"input_ids": _IDS + 9}, ValueError, r"lie in 0..16; got 18"),
    ({"input_ids": _IDS - 3}, ValueError, r"lie in 0..16; got -2"),
    ({"input_ids": _IDS[0]}, ValueError, r"\[B, P\], not empty; got \(8,\)"),
    ({"input_ids": _IDS[:, :0]}, ValueError, r"not empty; got \(2, 0\)"),
    ({"input_ids": _IDS * 1.0}, TypeError, "integers; got float"),
    (
      {"input_ids": np.ones((1, 33), int)},
      ValueError,
      "33 tokens; the model has 32 positions",
    ),
    (
      {"input_ids": _IDS, "attention_mask": np.ones((2, 7))},
      ValueError,
      r"must be \(2, 8\), like its ids; got \(2, 7\)",
    ),
    (
      {"input_ids": _IDS, "position_ids": _IDS + 30},
      ValueError,
      "position_ids must lie in 0..31; got 33",
    ),
    (
      {"input_ids": _IDS, "position_ids": _IDS[0]},
      ValueError,
      r"position_ids must be \(2, 8\) or \(1, 8\); got \(8,\)",
    ),
    ({"input_ids": _IDS, "logits_to_keep": 9}, ValueError, "0..8; got 9"),
    ({}, TypeError, r"\['input_ids'\] \(and may have \['attention_mask'"),
    (
      {"input_ids": _IDS, "token_type_ids": _IDS},
      TypeError,
      "got .'input_ids', 'token_type_ids'",
    ),
  ],
)
def test_bad_inputs_are_refused(inputs, error, message):
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  with pytest.raises(error, match=message):
    net.net.apply(net.params, **inputs)


def test_under_jit_an_unknown_token_gives_nan():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  ids = _IDS.copy()
  ids[0, 3] = 17
  out = net.apply(net.params, input_ids=ids)
  known = np.isfinite(out.logits).all(-1)
  assert known[1].all() and not known[0, 3:].any()


def test_a_block_runs_alone():
  from spex_jax.models import attention, blocks, rope

  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  out = net.apply(net.params, input_ids=_IDS, capture=("blocks.1.resid_*",))
  cos_sin = jnp.asarray(rope.table(net.config.rotary, 8), jnp.float32)
  mask = attention.causal(jnp.arange(8)[None], 8)
  context = attention.Context(mask, cos_sin[:, None])
  got, _ = blocks.Block(net.config, 1).apply(
    {"params": net.params["blocks_1"]},
    sites.Tap(),
    out.activations["blocks.1.resid_pre"],
    context,
  )
  want = out.activations["blocks.1.resid_post"]
  assert checkpoints.difference(got, want) < 1e-6
