"""Cut edges of the residual stream: by identities, by hand, by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import blocks, encoder, hub, rope, sites, vit
from tests.models import checkpoints

_CLEAN = np.array([[3, 1, 4, 1, 5]], np.int32)
_OTHER = np.array([[2, 7, 1, 8, 2]], np.int32)
_TOLERANCE = 5e-6  # As in transformer_test, for the same networks.
_ALONE = ("blocks.1.attn.q_in", "final_norm.in")
_SETTINGS = {
  "gpt2": checkpoints.GPT2,
  "gpt_neox": checkpoints.NEOX,
  "llama": checkpoints.LLAMA,
  "mixtral": checkpoints.MIXTRAL,
  "gemma2": checkpoints.relative(
    "gemma2",
    hidden_act="gelu_pytorch_tanh",
    query_pre_attn_scalar=4,
    tie_word_embeddings=True,
  ),
}


def _load(name):
  return checkpoints.compiled(_SETTINGS[name])[0]


def _cut(net, value):
  return {
    reader: np.full((1, 1, *shape), value, np.float32)
    for reader, shape in net.readers.items()
  }


@pytest.mark.slow_where("gpt_neox", "gpt2")
@pytest.mark.parametrize("name", _SETTINGS)
def test_nothing_cut_is_plain_and_everything_cut_is_the_other_run(name):
  net = _load(name)
  ref = net.contributions(net.params, input_ids=_OTHER)
  assert ref.shape[2] == len(net.writers)
  run = net.apply
  plain = [run(net.params, input_ids=ids).logits for ids in (_CLEAN, _OTHER)]
  assert checkpoints.difference(*plain) > 0.1
  own = net.contributions(net.params, input_ids=_CLEAN)
  for value, values, expected in (
    (0.0, ref, plain[0]),
    (1.0, own, plain[0]),
    (1.0, ref, plain[1]),
  ):
    edits = sites.Edits(cut=_cut(net, value), ref=values)
    out = run(net.params, edits, input_ids=_CLEAN)
    assert checkpoints.difference(out.logits, expected) < _TOLERANCE
  # No reader named, none cut.
  out = net.apply(net.params, sites.Edits(ref=ref), input_ids=_CLEAN)
  assert checkpoints.difference(out.logits, plain[0]) < _TOLERANCE


@pytest.mark.parametrize("name", ["gemma2", "gpt_neox"])
def test_the_writers_add_up_to_what_is_read_last(name):
  net = _load(name)
  writes = net.contributions(net.params, input_ids=_CLEAN)
  out = net.apply(net.params, input_ids=_CLEAN, capture=("final_norm.in",))
  total = writes.sum(2)
  if name == "gpt_neox":  # Biases of attention's output have no writer.
    for number in range(2):
      bias = net.params[f"blocks_{number}"]["attn"]["out"]["bias"]
      total = total + bias[None, None]
  got = out.activations["final_norm.in"]
  assert checkpoints.difference(total, got) < 1e-6


def test_the_number_of_edges():
  # 32,491 in GPT-2 small, as EAP-IG counts them.
  small = blocks.Config(
    width=768, num_blocks=12, num_heads=12, num_kv_heads=12, head_width=64,
    num_neurons=3072,
  )  # fmt: skip
  from spex_jax.models import stream

  assert len(stream.writers(small)) == 157
  readers = stream.readers(small)
  assert sum(rows for rows, _ in readers.values()) == 445
  assert sum(rows * before for rows, before in readers.values()) == 32_491


def test_one_edge_is_cut_for_one_head_only():
  net = _load("llama")
  ref = np.zeros((1, 1, len(net.writers), 12), np.float32)
  reader = "blocks.1.attn.q_in"
  rows, before = net.readers[reader]
  cut = np.zeros((1, 1, rows, before), np.float32)
  writer = net.writers.index("blocks.0.heads.2")
  cut[0, 0, 1, writer] = 1
  capture = ("blocks.1.attn.*_in", "blocks.0.attn.heads", "blocks.1.attn.q")
  plain = net.apply(net.params, input_ids=_CLEAN, capture=capture).activations
  out = net.apply(
    net.params,
    sites.Edits(cut={reader: cut}, ref=ref),
    input_ids=_CLEAN,
    capture=capture,
  ).activations
  # Head 1's q reads the stream without what head 2 of block 0 wrote.
  want = np.array(plain[reader])
  want[:, :, 1] -= plain["blocks.0.attn.heads"][:, :, 2]
  np.testing.assert_allclose(out[reader], want, rtol=0, atol=1e-6)
  for other in ("k_in", "v_in"):
    name = f"blocks.1.attn.{other}"
    np.testing.assert_allclose(out[name], plain[name], rtol=0, atol=1e-6)
  change = out["blocks.1.attn.q"] - plain["blocks.1.attn.q"]
  moved = np.abs(np.asarray(change)).max((0, 1, 3)) > 1e-4
  assert moved.tolist() == [False, True, False, False]


@pytest.mark.slow
def test_gradients_by_cut_are_finite_differences(tmp_path):
  with jax.enable_x64(True):
    folder, _ = checkpoints.make(tmp_path / "gemma2", _SETTINGS["gemma2"])
    net = hub.load(folder, dtype=jnp.float64)
    ref = jax.jit(net.contributions)(net.params, input_ids=_OTHER)
    rng = np.random.default_rng(3)
    cut = {
      reader: rng.uniform(size=(1, 1, *shape))
      for reader, shape in net.readers.items()
    }
    way = {reader: rng.normal(size=x.shape) for reader, x in cut.items()}

    @jax.jit
    def value(step):
      moved = {reader: cut[reader] + step * way[reader] for reader in cut}
      edits = sites.Edits(cut=moved, ref=ref)
      return net.apply(net.params, edits, input_ids=_CLEAN).logits[0, -1, 3]

    # Central differences: step^2 for the curvature, 1e-16 / step for rounding.
    step = 1e-5
    expected = (value(step) - value(-step)) / (2 * step)
    np.testing.assert_allclose(
      jax.grad(value)(0.0), expected, rtol=1e-6, atol=1e-8
    )
    assert abs(expected) > 1e-3


def test_vmap_over_cuts_equals_a_loop():
  net = _load("llama")
  ref = net.contributions(net.params, input_ids=_OTHER)
  rng = np.random.default_rng(4)
  cuts = {
    reader: (rng.random((3, 1, 1, *shape)) < 0.5).astype(np.float32)
    for reader, shape in net.readers.items()
  }

  @jax.jit
  def value(cut):
    edits = sites.Edits(cut=cut, ref=ref)
    return net.apply(net.params, edits, input_ids=_CLEAN).logits[0, -1]

  looped = [value({r: x[i] for r, x in cuts.items()}) for i in range(3)]
  batched = jax.jit(jax.vmap(value))(
    {r: jnp.asarray(x) for r, x in cuts.items()}
  )
  assert checkpoints.difference(batched, np.stack(looped)) < _TOLERANCE


def _check_gradients(net, params, ref, **inputs):
  """The gradient by every edge: by `cut`, and by `add` at the readers."""

  @jax.jit
  def both(params, ref):
    def value(**edits):
      return net.net.apply(params, sites.Edits(**edits), **inputs).logits.sum()

    z = net.net.contributions(params, **inputs)
    add = {}
    for reader, (rows, _) in net.readers.items():
      shape = z.shape[:2] + ((rows,) if reader.endswith("_in") else ())
      add[reader] = jnp.zeros((*shape, z.shape[-1]))
    of = jax.grad(lambda cut: value(cut=cut, ref=ref))
    every = _cut(net, 0.0)
    # Readers at one point are computed in another way than those at several.
    alone = {name: of({name: every[name]})[name] for name in _ALONE}
    by_add = jax.grad(lambda add: value(add=add))(add)
    return of(every), alone, by_add, ref - z

  by_cut, alone, by_add, change = both(params, ref)
  largest = max(np.abs(x).max() for x in by_cut.values())
  assert largest > 1e-3
  for reader, (rows, before) in net.readers.items():
    slope = by_add[reader].reshape(*change.shape[:2], rows, -1)
    want = np.einsum("bprd,bpwd->rw", slope, change[:, :, :before])
    # Sums of rounded products, of relative size 1e-7 each.
    np.testing.assert_allclose(
      by_cut[reader][0, 0], want, rtol=0, atol=2e-5 * largest, err_msg=reader
    )
    if reader in alone:
      np.testing.assert_allclose(
        alone[reader][0, 0], want, rtol=0, atol=2e-5 * largest, err_msg=reader
      )


@pytest.mark.slow_where("gpt_neox", "llama", "gpt2", "mixtral")
@pytest.mark.parametrize("name", _SETTINGS)
def test_gradients_by_edges_are_those_at_the_readers(name):
  net = _load(name)
  ref = net.contributions(net.params, input_ids=_OTHER)
  _check_gradients(net, net.params, ref, input_ids=_CLEAN)


@pytest.mark.slow_where("gemma2-late0", "gemma2-late1", "gpt_neox")
@pytest.mark.parametrize(
  "name, late",
  [
    (name, late)
    for name in ("gemma2", "gpt_neox")
    for late in (
      ("blocks.1.attn.k_in", "blocks.1.mlp.read", "final_norm.in"),
      ("blocks.1.attn.q_in", "blocks.1.attn.v_in"),
      ("final_norm.in",),
    )
  ],
)
def test_cuts_by_position_of_a_part_of_a_forward(name, late):
  net = _load(name)
  rng = np.random.default_rng(5)
  written = net.contributions(net.params, input_ids=_CLEAN)
  cut = {
    reader: rng.uniform(size=(1, 5, *net.readers[reader])).astype(np.float32)
    for reader in late
  }
  ref = rng.normal(size=(1, 5, *written.shape[2:])).astype(np.float32)
  edits = sites.Edits(cut=cut, ref=ref)
  whole = net.apply(net.params, edits, input_ids=_CLEAN).logits

  @jax.jit
  def parts(params, edits, written):
    inputs = {"input_ids": _CLEAN, "logits_to_keep": 2}
    few = net.net.apply(params, edits, **inputs).logits
    x = net.net.enter(params, 1, **inputs)
    resume = net.net.resume
    rest = resume(params, 1, x, edits, written=written, **inputs).logits
    return few, rest

  for logits in parts(net.params, edits, written):
    assert checkpoints.difference(logits, whole[:, -2:]) < _TOLERANCE
  x = np.zeros((1, 5, net.config.width), np.float32)
  with pytest.raises(ValueError, match=r"`written` must be \[B, P, \d, d\]"):
    net.resume(net.params, 1, x, edits, input_ids=_CLEAN)


_BLOCKS = {
  "width": 8, "num_blocks": 2, "num_heads": 2, "num_kv_heads": 2,
  "head_width": 4, "num_neurons": 6,
}  # fmt: skip


def _vit(**settings):
  config = vit.Config(
    image_size=4, patch_size=2, num_channels=1, num_labels=3,
    **_BLOCKS, **settings,
  )  # fmt: skip
  images = np.random.default_rng(1).normal(size=(2, 1, 1, 4, 4))
  return vit.network(config), [{"pixel_values": x} for x in images]


def _modernbert():
  config = encoder.Config(
    order="pre", norm="centred", first_norm="none", gated=True, qkv_bias=False,
    out_bias=False, mlp_bias=False, windows=(None, 1), vocab_size=17,
    num_positions=8, rotary=rope.Rope(100.0, 4), pool_norm=True, num_labels=3,
    local_rotary=rope.Rope(10.0, 4), dense_bias=False, **_BLOCKS,
  )  # fmt: skip
  return encoder.network(config), [{"input_ids": x} for x in (_CLEAN, _OTHER)]


_ENCODERS = pytest.mark.parametrize(
  "make",
  [
    _vit,
    lambda: _vit(layer_scale=True, pool_patches=True, gated=True),
    _modernbert,
  ],
  ids=("vit", "dinov2", "modernbert"),
)


@pytest.mark.slow_where("vit", "dinov2")
@_ENCODERS
def test_encoders_with_norms_before_have_edges_too(make):
  plain, inputs = make()
  net = checkpoints.Compiled(plain)
  params = checkpoints.random_params(net)
  ref = net.contributions(params, **inputs[1])
  expected = [net.apply(params, **x).logits for x in inputs]
  own = net.contributions(params, **inputs[0])
  for values, want in ((own, expected[0]), (ref, expected[1])):
    edits = sites.Edits(cut=_cut(net, 1.0), ref=values)
    out = net.apply(params, edits, **inputs[0])
    assert checkpoints.difference(out.logits, want) < _TOLERANCE


@pytest.mark.slow
@_ENCODERS
def test_gradients_by_edges_of_encoders(make):
  plain, inputs = make()
  net = checkpoints.Compiled(plain)
  params = checkpoints.random_params(net)
  ref = net.contributions(params, **inputs[1])
  _check_gradients(net, params, ref, **inputs[0])


def test_edges_that_do_not_fit_are_refused():
  net = _load("llama")
  ref = np.zeros((1, 1, len(net.writers), 12))
  reader = "blocks.0.attn.q_in"
  good = np.zeros((1, 1, 4, 1))

  def run(cut, ref, **kwargs):
    edits = sites.Edits(cut=cut, ref=ref, **kwargs)
    return net.apply(net.params, edits, input_ids=_CLEAN)

  run({reader: good}, ref)
  for bad in (good[0], good[:, :, :2], np.zeros((2, 1, 4, 1))):
    with pytest.raises(ValueError, match=r"`cut\['blocks.0.attn.q_in'\]` has"):
      run({reader: bad}, ref)
  for bad in (ref[0], ref[..., :3], ref[:, :, :4], np.zeros((1, 3, 11, 12))):
    with pytest.raises(ValueError, match=r"Edit `ref` has"):
      run({reader: good}, bad)
  with pytest.raises(ValueError, match=r"are cut: give `ref`, what the writ"):
    run({reader: good}, None)
  with pytest.raises(ValueError, match=r"No such reader: .*Did you mean block"):
    run({"blocks.0.attn.q_inn": good}, ref)
  with pytest.raises(TypeError, match="must be sites.Edits; got dict"):
    net.apply(net.params, {}, input_ids=_CLEAN)
  with pytest.raises(ValueError, match="passed .*'blocks.0.attn.in'"):
    run({reader: good}, ref, scale={"blocks.0.attn.in": np.ones((1, 1, 1))})
