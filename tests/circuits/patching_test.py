"""Patches in one program, against one run for each patch and pair."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import metrics, patching, runs, tracing
from spex_jax.models import hooks, sites
from tests.circuits import tiny

pytestmark = pytest.mark.usefixtures("float64")

_EXACT = 1e-11
_METRIC = metrics.logit_difference


def _by_hand(net, params, pairs, sweep, direction, at, row):
  """One patch of one pair: its mask is set entry by entry."""
  pair = pairs[row : row + 1]
  of = dict(zip(sweep.axes, at))
  name = f"blocks.{of['layer']}.{sweep.site}"
  if name not in net.sites:
    name = hooks.site(name, net)
  denoise = direction == "denoise"
  source = tiny.activation(pair, net, params, name, corrupted=not denoise)
  length = int(pair.lengths[0])
  where = np.zeros(source.shape, bool)
  index = [0, slice(None), slice(None), slice(None)][: source.ndim]
  for axis, place in (("pos", 1), ("dest", 2), ("src", 3)):
    if axis in of:
      index[place] = (
        slice(of[axis], of[axis] + 1) if of[axis] < length else (slice(0, 0))
      )
  if "head" in of:
    index[1 if "pattern" in sweep.site else 2] = of["head"]
  where[tuple(index)] = True
  edits = sites.Edits(replace={name: (where, source)})
  logits = tiny.alone(pair, net, params, edits, corrupted=denoise)
  clean = tiny.alone(pair, net, params)
  return _METRIC(logits, clean, pair.right[0], pair.wrong[0])


def _compare(net, params, pairs, what, direction, every=7):
  got = patching.sweep(
    net, params, pairs, what, _METRIC,
    direction=direction, size=2, at_once=3, programs=2,
  )  # fmt: skip
  sweep = patching.SWEEPS[what] if isinstance(what, str) else what
  assert got.values.shape == (*map(len, got.labels), len(pairs))
  places = list(itertools.product(*map(range, got.values.shape)))
  # Of the shorter pair, so that padding is tested, too.
  for *at, row in [place for place in places if place[-1] == 1][::every]:
    expected = _by_hand(net, params, pairs, sweep, direction, at, row)
    np.testing.assert_allclose(
      got.values[(*at, row)], expected, rtol=0, atol=_EXACT
    )
  return got


def test_the_fifteen_have_their_names():
  assert len(patching.SWEEPS) == 15
  stacked = itertools.chain(*patching.STACKS.values())
  assert {*stacked} <= {*patching.SWEEPS}
  net, _ = tiny.network()
  for sweep in patching.SWEEPS.values():
    assert all(s in net.sites for s in patching.every_block(net, sweep.site))


@pytest.mark.slow_where("attn_head_pattern_dest_src_pos-denoise")
@pytest.mark.parametrize(
  "what,direction",
  [
    ("attn_head_out_by_pos", "noise"),
    ("attn_head_pattern_dest_src_pos", "denoise"),
  ],
)
def test_sweeps_by_hand(what, direction):
  net, params = tiny.network()
  _compare(net, params, tiny.pairs(), what, direction, every=3)


@pytest.mark.slow
@pytest.mark.parametrize("what", list(patching.SWEEPS))
@pytest.mark.parametrize("direction", patching.DIRECTIONS)
def test_all_sweeps_by_hand(what, direction):
  for kind in ("gpt2", "llama"):
    net, params = tiny.network(kind)
    _compare(net, params, tiny.pairs(), what, direction)


@pytest.mark.slow
def test_keys_of_grouped_heads_and_sites_of_ones_own():
  net, params = tiny.network("llama")
  what = patching.Sweep("attn.k_rot", ("head", "layer"))
  got = _compare(net, params, tiny.pairs(), what, "denoise", every=1)
  assert got.labels == (("0",), ("0", "1"))


def test_first_and_last():
  """The stream of all positions before the first block is the other run."""
  net, params = tiny.network()
  pairs = tiny.pairs()
  one = lambda direction: patching.sweep(
    net, params, pairs, patching.Sweep("resid_pre", ("layer",)), _METRIC,
    direction=direction, size=2,
  )  # fmt: skip
  clean, noisy = one("denoise"), one("noise")
  for got in (clean, noisy):
    np.testing.assert_allclose(got.values[0], got.source, atol=_EXACT)
    np.testing.assert_allclose(got.moved()[0], 1, atol=_EXACT)
  np.testing.assert_allclose(clean.source, noisy.unpatched, atol=_EXACT)
  expected = [
    _METRIC(tiny.alone(pairs[i : i + 1], net, params), None,
            pairs.right[i], pairs.wrong[i])
    for i in range(3)
  ]  # fmt: skip
  np.testing.assert_allclose(clean.source, expected, atol=_EXACT)
  rows = clean.rows()
  assert [row["layer"] for row in rows] == ["0", "1"]
  np.testing.assert_allclose(rows[0]["metric"], clean.source.mean())


@pytest.mark.slow
def test_spans_are_their_positions_together():
  net, params = tiny.network()
  pairs = tiny.pairs()
  got = patching.sweep(
    net, params, pairs, "resid_pre", _METRIC, spans=True, size=2
  )
  assert got.labels[1] == ("subject", "rest")
  pair = pairs[:1]
  name = "blocks.1.resid_pre"
  source = tiny.activation(pair, net, params, name)
  where = (pair.spans.owner == 1)[..., None]
  edits = sites.Edits(replace={name: (where, source)})
  logits = tiny.alone(pair, net, params, edits, corrupted=True)
  expected = _METRIC(logits, logits, pair.right[0], pair.wrong[0])
  np.testing.assert_allclose(got.values[1, 1, 0], expected, atol=_EXACT)


def test_refusals():
  net, params = tiny.network()
  pairs = tiny.pairs()
  sweep = lambda *what, **more: patching.sweep(
    net, params, pairs, *what, _METRIC, **more
  )
  with pytest.raises(ValueError, match="Unknown sweep 'heads'"):
    sweep("heads")
  with pytest.raises(ValueError, match="direction='both'"):
    sweep("resid_pre", direction="both")
  with pytest.raises(ValueError, match="has no heads"):
    sweep(patching.Sweep("mlp.out", ("layer", "head")))
  with pytest.raises(ValueError, match="A sweep of 'attn.z' is over"):
    patching.Sweep("attn.z", ("layer", "dest"))
  with pytest.raises(ValueError, match="Unknown hook"):
    sweep(patching.Sweep("attn.w", ("layer",)))
  bare = dataclasses.replace(pairs, spans=None)
  with pytest.raises(ValueError, match="no named spans"):
    patching.sweep(net, params, bare, "resid_pre", _METRIC, spans=True)


@pytest.mark.parametrize(
  "kind,window", [pytest.param("resid", 10, marks=pytest.mark.slow), ("mlp", 2)]
)
def test_tracing_by_hand(kind, window):
  net, params = tiny.network(num_blocks=3)
  pairs = tiny.pairs()
  key, copies = jax.random.key(1), 2
  found = tracing.trace(
    net, params, pairs, "subject",
    key=key, kind=kind, window=window, copies=copies, noise=0.7, size=4,
    skip_wrong=False, programs=2,
  )  # fmt: skip
  assert found.values.shape == (3, 4, 3)
  assert (found.low != found.high).all()
  site = {"resid": "resid_post", "mlp": "mlp.out"}[kind]
  # The second pair, of 3 tokens, in the first batch of two.
  pair, row = pairs[1:2], 1
  drawn = jax.random.normal(
    jax.random.fold_in(key, 0), (2 * copies, 4, 8), jnp.float64
  )
  inside = pair.spans.owner[:, :3, None] == 0
  layer, place = 1, 1
  layers = range(0 if kind == "mlp" else 1, 2)  # [l - 1, l + 1) of MLPs.
  values, low = [], []
  for copy in range(copies):
    noise = 0.7 * drawn[row * copies + copy][None, :3]
    add = {"embed.tokens": jnp.where(inside, noise, 0)}
    where = (np.arange(3) == place)[None, :, None]
    replace = {
      name: (where, tiny.activation(pair, net, params, name))
      for name in (f"blocks.{n}.{site}" for n in layers)
    }
    for edits, out in (
      (sites.Edits(add=add), low),
      (sites.Edits(add=add, replace=replace), values),
    ):
      logits = tiny.alone(pair, net, params, edits)
      out.append(jax.nn.softmax(logits)[pair.right[0, 0]])
  np.testing.assert_allclose(found.low[row], np.mean(low), atol=1e-9)
  np.testing.assert_allclose(
    found.values[layer, place, row], np.mean(values), atol=1e-9
  )
  # Behind the subject's last layer and the last token everything is back.
  if kind == "resid":
    np.testing.assert_allclose(found.values[2, 2, 1], found.high[1], atol=1e-9)
  assert found.effects().shape == (3, 4)
  np.testing.assert_allclose(found.total, (found.high - found.low).mean())


@pytest.mark.slow
def test_noise_is_three_times_the_spread_of_the_subject():
  net, params = tiny.network()
  pairs = tiny.pairs()
  found = tracing.trace(
    net, params, pairs, "subject",
    key=jax.random.key(0), copies=2, size=4, skip_wrong=False, replace=True,
    noise="us3", spans=True,
  )  # fmt: skip
  table = np.asarray(params["tokens"]["table"])
  ids = np.concatenate([pairs.clean[i][pairs.spans.owner[i] == 0]
                        for i in range(3)])  # fmt: skip
  np.testing.assert_allclose(found.noise, 3 * table[ids].std(), rtol=1e-12)
  assert found.labels == ("subject", "rest")


@pytest.mark.slow
def test_prompts_that_are_answered_wrong_are_left_out():
  net, params = tiny.network()
  pairs = tiny.pairs()
  first = [
    int(tiny.alone(pairs[i : i + 1], net, params).argmax()) for i in range(3)
  ]
  right = pairs.right.copy()
  right[1, 0] = first[1]
  right[0, 0] = (first[0] + 1) % tiny.VOCAB
  right[2, 0] = (first[2] + 1) % tiny.VOCAB
  mixed = dataclasses.replace(pairs, right=right, wrong=np.zeros((3, 0)))
  trace = lambda some, **more: tracing.trace(
    net, params, some, "subject", key=jax.random.key(0), copies=2, size=4,
    **more,
  )  # fmt: skip
  assert trace(mixed).used.tolist() == [1]
  with pytest.raises(ValueError, match="gets none of 2"):
    trace(mixed[[0, 2]])
  with pytest.raises(ValueError, match="no span 'object'"):
    tracing.trace(net, params, mixed, "object", key=jax.random.key(0))
  with pytest.raises(ValueError, match="kind='all'"):
    trace(mixed, kind="all")
  for noise in ("", "s", "x3", "t2", "u0", -1, "nan", "3 "):
    with pytest.raises(ValueError, match="noise="):
      trace(mixed, noise=noise)


@pytest.mark.slow_where("m-False")
@pytest.mark.parametrize("noise,replace", [("m", False), ("t5", True)])
def test_noise_has_the_moments_of_the_table(noise, replace):
  net, params = tiny.network()
  (batch,) = runs.batches(tiny.pairs(), 3)
  copies, inside = 5_000, np.arange(4)[None] == np.ones((3, 1))
  shape, wide = tracing._noise(noise)
  copied, added, _, _ = tracing._noisy(
    sites.Model(net), _METRIC, copies, shape, replace, params, batch,
    jax.random.key(0), inside, wide, tracing._table(net, params),
  )  # fmt: skip
  table = np.asarray(params["tokens"]["table"])
  added = np.array(added)
  assert not added[:, [0, 2, 3]].any()
  drawn = added[:, 1]
  if replace:
    drawn = drawn + table[np.asarray(copied.clean)[:, 1]]
  spread = table.std(axis=0, ddof=1).max()
  # Of 15,000 draws, five times what means and squares of them spread by.
  np.testing.assert_allclose(
    drawn.mean(0), table.mean(0), atol=5 * spread / np.sqrt(len(drawn))
  )
  np.testing.assert_allclose(
    np.cov(drawn, rowvar=False), np.cov(table, rowvar=False),
    atol=5 * 3 * spread**2 / np.sqrt(len(drawn)),
  )  # fmt: skip
  tails = (np.abs(drawn - drawn.mean(0)) > 3.5 * drawn.std(0)).mean()
  assert (tails > 2e-3) == (noise == "t5")  # 5e-4 of a Gaussian.
