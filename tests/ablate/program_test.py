"""Compiled batches: company, meshes, microbatches, dtypes, compilations."""

import os
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import evaluate, program
from tests import command

_N = 9


def _masks(count, seed=0):
  """Distinct masks."""
  rows = np.random.default_rng(seed).permutation(2**_N)[:count]
  return (rows[:, None] >> np.arange(_N) & 1).astype(bool)


def _weights(width=24, seed=0):
  """An attention layer and an MLP over _N tokens, one output per class."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 4
  return {
    "tokens": draw(_N, width),
    "query": draw(width, width),
    "up": draw(width, 2 * width + 1),
    "down": draw(2 * width + 1, width),
    "head": draw(width, 2),
  }


def _encoder(mask, w):
  """Sums of products of every kind whose order a batch could change."""
  x = jnp.where(mask[:, None], w["tokens"], 0)
  scores = jnp.where(mask[None, :], x @ w["query"] @ x.T, -1e9)
  x = x + jax.nn.softmax(scores) @ x
  x = x + jnp.tanh(x @ w["up"]) @ w["down"]
  return jnp.where(mask[:, None], x, 0).mean(axis=0) @ w["head"]


def _by_numpy(masks, w):
  """The same in float64, by a loop over kept tokens alone."""
  w = {name: np.asarray(x, np.float64) for name, x in w.items()}
  out = np.zeros((len(masks), 2))
  for i, mask in enumerate(masks):
    if mask.any():
      x = w["tokens"][mask]
      pattern = np.exp(x @ w["query"] @ x.T)
      x = x + pattern / pattern.sum(axis=1, keepdims=True) @ x
      x = x + np.tanh(x @ w["up"]) @ w["down"]
      out[i] = x.sum(axis=0) / _N @ w["head"]
  return out


@pytest.mark.parametrize(
  ("batch_size", "microbatch"), [(8, None), (13, None), (12, 4), (7, 1), (9, 5)]
)
def test_values_match_numpy_and_do_not_depend_on_company(
  batch_size, microbatch
):
  """Alone, permuted, repeated, padded: the same bits."""
  w = _weights()
  value_fn = evaluate.compiled(
    _encoder,
    _N,
    batch_size=batch_size,
    microbatch=microbatch,
    shared=w,
    devices=jax.devices()[:1],
  )
  masks = _masks(41)
  values = value_fn(masks)
  # Some 100 roundings of numbers of size 1.
  np.testing.assert_allclose(
    values, _by_numpy(masks, w), rtol=0, atol=100 * np.finfo(np.float32).eps
  )
  order = np.random.default_rng(1).permutation(41)
  np.testing.assert_array_equal(value_fn(masks[order]), values[order])
  for start in range(5):  # Another place in the batch, and other padding.
    np.testing.assert_array_equal(value_fn(masks[start:]), values[start:])
  for row in (0, 17, 40):
    np.testing.assert_array_equal(value_fn(masks[[row]]), values[[row]])
  twice = np.random.default_rng(2).integers(0, 41, size=90)
  np.testing.assert_array_equal(value_fn(masks[twice]), values[twice])
  everyone = np.ones((1, _N), bool)  # The padding's own mask.
  np.testing.assert_array_equal(
    value_fn(np.concatenate([everyone, masks]))[0], value_fn(everyone)[0]
  )


def test_a_microbatch_fixes_the_digits():
  """How many of them a call takes does not matter."""
  w, masks = _weights(), _masks(30)
  settings = {"microbatch": 4, "shared": w, "devices": jax.devices()[:1]}
  few = evaluate.compiled(_encoder, _N, batch_size=8, **settings)
  many = evaluate.compiled(_encoder, _N, batch_size=31, **settings)
  np.testing.assert_array_equal(few(masks), many(masks))
  assert (few.stats.device_batch, few.stats.microbatch) == (8, 4)
  assert many.stats.batch_shape == (32, _N)  # Rounded up.


def test_one_compilation_serves_every_request(monkeypatch):
  compilations = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **unused: (
      compilations.append(name)
      if name.endswith("backend_compile_duration")
      else None
    )
  )
  try:
    value_fn = evaluate.compiled(
      _encoder, _N, batch_size=16, microbatch=4, shared=_weights()
    )
    for count in (3, 16, 40, 1):
      value_fn(_masks(count))
    assert len(compilations) == 1
    # The listener does hear of compilations.
    evaluate.compiled(lambda mask: mask.sum(), _N, batch_size=16)(_masks(3))
    assert len(compilations) == 2
  finally:
    jax.monitoring.clear_event_listeners()


def test_masks_are_donated(monkeypatch):
  put, device_put = [], jax.device_put

  def spy(*args):
    put.append(device_put(*args))
    return put[-1]

  value_fn = evaluate.compiled(
    lambda mask: mask.sum(), _N, batch_size=8, devices=jax.devices()[:1]
  )
  value_fn.prepare()
  monkeypatch.setattr(jax, "device_put", spy)
  value_fn(_masks(20))
  assert len(put) == 3
  assert all(masks.is_deleted() for masks, _ in put)


def test_scratch_of_cpu_kernels_is_counted():
  """Twice the largest result of one, among all of a program's text."""
  line = "{} = {}{{1,0}} fusion(%a), kind=kCustom, calls=%b, config={}"
  kernel = '{"fusion_config":{"kind":"__ynn_fusion"},"partitions":[]}'
  text = "\n".join(
    [
      line.format("%ynn_fusion.1", "f32[10,4]", kernel),
      line.format("ROOT %ynn_fusion.2", "bf16[30]", kernel),
      line.format("%ynn_fusion.3", "f32[]", kernel),
      line.format("%loop_fusion", "f32[100,100]", "{}"),
    ]
  )
  assert program._cpu_scratch(text) == 2 * 10 * 4 * 4
  assert program._cpu_scratch("") == 0


def _mesh(masks, model):
  automatic = jax.sharding.AxisType.Auto
  return jax.make_mesh(
    (masks, model), ("masks", "model"), axis_types=(automatic, automatic)
  )


def test_parameters_replicated_on_a_mesh_change_no_bit():
  w, masks = _weights(), _masks(29)
  one = evaluate.compiled(
    _encoder, _N, batch_size=4, shared=w, devices=jax.devices()[:1]
  )
  on_mesh = evaluate.compiled(
    _encoder, _N, batch_size=16, shared=w, mesh=_mesh(4, 2)
  )
  np.testing.assert_array_equal(on_mesh(masks), one(masks))
  assert on_mesh.stats.device == "8 x cpu"
  assert on_mesh.stats.device_batch == 4


def test_parameters_are_sharded_on_another_axis():
  w, masks = _weights(width=32), _masks(29)
  w["up"] = w["up"][:, :64]
  w["down"] = w["down"][:64]
  specs = {name: jax.P() for name in w}
  specs |= {"up": jax.P(None, "model"), "down": jax.P("model"), "head": None}
  source = program.Source(
    _encoder, _N, shared=w, shared_sharding=specs, mesh=_mesh(2, 4)
  )
  placed = source._extra[0]
  assert placed["up"].addressable_shards[0].data.shape == (32, 16)
  assert placed["tokens"].addressable_shards[0].data.shape == (_N, 32)
  value_fn = evaluate.compiled(
    _encoder,
    _N,
    batch_size=8,
    shared=w,
    shared_sharding=specs,
    mesh=_mesh(2, 4),
  )
  values = value_fn(masks)
  # Sums over "model" are taken in another order, so not bit for bit.
  np.testing.assert_allclose(
    values, _by_numpy(masks, w), rtol=0, atol=100 * np.finfo(np.float32).eps
  )
  np.testing.assert_array_equal(value_fn(masks[::-1]), values[::-1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_floating_leaves_are_cast(dtype):
  shared = {"w": np.linspace(0, 1, _N), "scale": jnp.float32(3), "k": 2}

  def f(mask, shared):
    assert shared["w"].dtype == shared["scale"].dtype == dtype
    assert jnp.issubdtype(shared["k"].dtype, jnp.integer)
    return (shared["w"] * shared["scale"] * shared["k"])[0] + mask[1]

  values = evaluate.compiled(f, _N, batch_size=8, shared=shared, dtype=dtype)(
    _masks(5)
  )
  np.testing.assert_array_equal(values, _masks(5)[:, 1])


def test_bfloat16_values_are_checked_too():
  f = lambda mask: jnp.where(mask[0], 1, jnp.nan).astype(jnp.bfloat16)
  masks = np.ones((11, _N), bool)
  masks[:, 1:5] = np.arange(11)[:, None] >> np.arange(4) & 1
  value_fn = evaluate.compiled(f, _N, batch_size=8)
  np.testing.assert_array_equal(value_fn(masks), np.ones(11))
  masks[9, 0] = False
  with pytest.raises(ValueError, match=r"first at row 9\)"):
    value_fn(masks)


def test_loops_inside_f_may_start_from_constants():
  def f(mask):
    step = lambda total, kept: (total + kept, None)
    return jax.lax.scan(step, jnp.int32(0), mask)[0]

  values = evaluate.compiled(f, _N, batch_size=8)(_masks(20))
  np.testing.assert_array_equal(values, _masks(20).sum(axis=1))


def test_unfit_settings_are_refused():
  one = lambda mask, w: w.sum() + mask[0]
  ask = lambda **settings: evaluate.compiled(
    one, _N, shared=np.ones((4, 2), np.float32), **settings
  ).prepare()
  automatic = jax.sharding.AxisType.Auto
  other = jax.make_mesh((8,), ("data",), axis_types=(automatic,))
  with pytest.raises(ValueError, match="axis named 'masks'.*'data'"):
    ask(mesh=other)
  explicit = jax.make_mesh(
    (8,), ("masks",), axis_types=(jax.sharding.AxisType.Explicit,)
  )
  with pytest.raises(ValueError, match=r"\['masks'\] .* not automatic"):
    ask(mesh=explicit)
  with pytest.raises(ValueError, match="mesh or devices"):
    ask(mesh=_mesh(4, 2), devices=jax.devices())
  with pytest.raises(ValueError, match=r"names \['heads'\]"):
    ask(mesh=_mesh(4, 2), shared_sharding=jax.P("heads"))
  with pytest.raises(ValueError, match=r"names \['masks'\]"):
    ask(mesh=_mesh(4, 2), shared_sharding=jax.P(("masks", "model")))
  with pytest.raises(ValueError, match="a tree of them like `shared`"):
    ask(mesh=_mesh(4, 2), shared_sharding=[jax.P(), jax.P()])
  with pytest.raises(ValueError, match="floating one; got .*int32"):
    ask(dtype=jnp.int32)
  with pytest.raises(ValueError, match="microbatch must be at least 1; got 0"):
    ask(microbatch=0)


_SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
sys.path.insert(0, "tests/ablate")
import program_test
from spex_jax.ablate import evaluate
num = int(sys.argv[1])
assert len(jax.devices()) == num
for microbatch in (None, 2):
  value_fn = evaluate.compiled(
    program_test._encoder, 9, batch_size=6 * num, microbatch=microbatch,
    shared=program_test._weights())
  print(value_fn(program_test._masks(100)).tobytes().hex())
  assert value_fn.stats.device_batch == 6
"""


@pytest.mark.slow
def test_eight_devices_equal_a_process_with_one_bit_for_bit():
  outputs = []
  for num in (1, 8):
    flags = f"--xla_force_host_platform_device_count={num}"
    run = subprocess.run(
      [sys.executable, "-c", textwrap.dedent(_SHARDED), str(num)],
      cwd=command.ROOT,
      env=os.environ
      | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": "."},
      text=True,
      capture_output=True,
    )
    assert run.returncode == 0, run.stderr
    outputs.append(run.stdout)
  assert outputs[0] == outputs[1]
  assert len(outputs[0]) > 2 * 100 * 2 * 16  # Hex digits of the values.


def test_a_lone_cpu_device_computes_two_batches_at_once():
  both = threading.Barrier(2, timeout=60)

  def met(number):
    both.wait()  # Fails if nobody else comes.
    return number

  def f(mask):
    given = mask.sum().astype(jnp.int32)
    like = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.pure_callback(met, like, given, vmap_method="sequential")

  one = evaluate.compiled(f, _N, batch_size=1, devices=jax.devices()[:1])
  masks = _masks(8)
  np.testing.assert_array_equal(one(masks), masks.sum(axis=1))
  assert one.stats.batches == 8
