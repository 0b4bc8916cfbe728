"""Path patching against an interpreter that freezes and restores by hand."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from spex_jax.circuits import exact_effects, metrics, paths, swaps, taps, walks
from tests.circuits import interpreter, tiny

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference
_EXACT = 1e-10
_PORTS = "qkv"


class _Slow(interpreter.Interpreter):
  """Notes sizes of norms and projections in the order of computation.

  `sizes` are taken instead of its own; `put` has projections by their number,
  and at which positions they are what they were elsewhere.
  """

  def forward(self, ids, cut=None, ref=None, sizes=None, put=None):
    self.sizes, self.projected = [], []
    self._given = None if sizes is None else iter(sizes)
    self._put = put or {}
    return self.run(ids, cut, ref)

  def _norm(self, p, kind, x):
    centred = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    size = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config.norm_eps)
    self.sizes.append(size)
    if self._given is not None:
      size = next(self._given)
    return centred / size * p["scale"] + p.get("bias", 0)

  def _project(self, p, x, row):
    out = super()._project(p, x, row)
    at, value = self._put.get(len(self.projected), (False, 0))
    self.projected.append(np.where(at, value, out))
    return self.projected[-1]


def _by_hand(net, params, pair, receivers, sender, place, at, mlps, norms):
  """The metric of one pair, one sender at one place."""
  slow = _Slow(net, params)
  length = int(pair.lengths[0])
  ids, other = pair.clean[0, :length], pair.corrupted[0, :length]
  z, _ = slow.forward(ids)
  sizes = slow.sizes
  elsewhere, _ = _Slow(net, params).forward(other)
  where = np.zeros((length, 1), bool)
  where[place] = True
  cut, ref = {}, dict(z)
  for name in sender:
    ref[name] = np.where(where, elsewhere[name], z[name])
  for reader, (rows, before) in net.readers.items():
    for name in net.writers[:before]:
      for row in range(rows):
        degree = 1.0
        if name.endswith("mlp") and not mlps:
          degree = where * 1.0 if name in sender else 0.0
        cut[name, reader, row] = degree
  _, logits = slow.forward(ids, cut, ref, sizes if norms else None)
  if receivers != [paths.LOGITS]:
    noted, put = slow.projected, {}
    heard = np.zeros((length, 1), bool)
    heard[at] = True
    heads = net.config.num_heads
    share = heads // net.config.num_kv_heads
    for reader, row in receivers:
      _, block, _, port = reader.split(".")
      for head in range(heads):
        if row == (head if port == "q_in" else head // share):
          number = (int(block) * heads + head) * 3 + _PORTS.index(port[0])
          put[number] = heard, noted[number]
    _, logits = slow.forward(ids, put=put)
  return _METRIC(logits, logits, pair.right[0], pair.wrong[0])


_INTO = [paths.Receiver("blocks.1.attn.q_in", 1),
         paths.Receiver("blocks.1.attn.v_in", 0)]  # fmt: skip
_SENDERS = ["embed", "blocks.0.heads.1", "blocks.0.mlp",
            ("blocks.0.heads.0", "blocks.0.mlp")]  # fmt: skip


@pytest.mark.parametrize(
  "kind,receivers,mlps,norms",
  [
    ("gpt2", _INTO, False, False),
    ("llama", _INTO, True, True),
    pytest.param("gpt2", _INTO, False, True, marks=pytest.mark.slow),
    pytest.param("llama", _INTO, True, False, marks=pytest.mark.slow),
    pytest.param("gpt2", [paths.LOGITS], False, True, marks=pytest.mark.slow),
    pytest.param("llama", [paths.LOGITS], False, False, marks=pytest.mark.slow),
  ],
)
def test_by_hand(kind, receivers, mlps, norms):
  net, params = tiny.network(kind)
  pairs = tiny.pairs()
  got = paths.patch(
    net, params, pairs, receivers, _METRIC, senders=_SENDERS,
    places=["subject", -1, None], at=None if mlps else "subject",
    freeze_mlps=mlps, freeze_norms=norms, size=2, at_once=3,
  )  # fmt: skip
  assert got.values.shape == (4, 3, 3)
  for i, sender in enumerate(_SENDERS):
    sender = (sender,) if isinstance(sender, str) else sender
    for k, place in enumerate(("subject", -1, slice(None))):
      for row in (0, 1):
        pair = pairs[row : row + 1]
        at = np.flatnonzero(pair.spans.owner[0] == 0)
        expected = _by_hand(
          net, params, pair, receivers, sender,
          at if k == 0 else place, slice(None) if mlps else at, mlps, norms,
        )  # fmt: skip
        np.testing.assert_allclose(
          got.values[i, k, row], expected, rtol=0, atol=_EXACT
        )
  assert np.ptp(got.values) > 1e-3


def test_all_writers_are_the_corrupted_run():
  net, params = tiny.network()
  pairs = tiny.pairs()
  heads = [w for w in net.writers if "mlp" not in w]
  got = paths.patch(
    net, params, pairs, [paths.LOGITS], _METRIC,
    senders=[net.writers, heads, *_SENDERS[:2]], size=2,
  )  # fmt: skip
  expected = [
    _METRIC(tiny.alone(pairs[i : i + 1], net, params, corrupted=True), None,
            pairs.right[i], pairs.wrong[i])
    for i in range(3)
  ]  # fmt: skip
  np.testing.assert_allclose(got.source, expected, atol=_EXACT)
  # MLPs that follow do what they do there.
  for row in got.values[:2, 0]:
    np.testing.assert_allclose(row, expected, atol=_EXACT)
  np.testing.assert_allclose(got.moved()[:2, 0], 1, atol=_EXACT)


def test_without_mlps_it_is_a_cut():
  net, params = tiny.network("llama")
  pairs = tiny.pairs()
  reader = "blocks.1.attn.v_in"
  got = paths.patch(
    net, params, pairs, [paths.Receiver(reader)], _METRIC, freeze_mlps=True,
    size=2,
  )  # fmt: skip
  level = taps.Level.of(net, "edge")
  which = [level.graph.index((name, reader, 0)) for name in got.labels[0]]
  effects = exact_effects.of_pairs(
    net, params, _METRIC, level, pairs, None, which, 2
  )
  np.testing.assert_allclose(
    got.values[:, 0] - got.unpatched, effects.T, atol=_EXACT
  )
  assert np.abs(effects).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("source", ["zero", "mean", "mean-position"])
def test_other_sources_and_the_other_direction(source):
  net, params = tiny.network()
  pairs = tiny.pairs()
  run = lambda **more: paths.patch(
    net, params, pairs, [paths.LOGITS], _METRIC, senders=[net.writers, "embed"],
    size=2, **more,
  )  # fmt: skip
  got = run(source=source)
  np.testing.assert_allclose(got.values[0, 0], got.source, atol=_EXACT)
  assert np.abs(got.values[1, 0] - got.unpatched).max() > 1e-3
  back, there = run(direction="denoise"), run()
  np.testing.assert_allclose(back.unpatched, there.source, atol=_EXACT)
  np.testing.assert_allclose(back.source, there.unpatched, atol=_EXACT)


def planted():
  """A network in which heads 0.1 and 1.0 alone write anything."""
  net, params = tiny.network()
  params = jax.tree.map(np.array, params)
  for block, head in ((0, 0), (1, 1)):
    params[f"blocks_{block}"]["attn"]["out"]["kernel"][head] = 0
  for block in (0, 1):
    params[f"blocks_{block}"]["mlp"]["down"]["kernel"][:] = 0
  return net, params


def told(net, params, pairs):
  """Pairs whose answers are what the network says of either prompt."""
  rows = [pairs[i : i + 1] for i in range(len(pairs))]
  says = lambda corrupted: np.array(
    [
      [int(tiny.alone(one, net, params, corrupted=corrupted).argmax())]
      for one in rows
    ]
  )
  right, wrong = says(False), says(True)
  rows = np.flatnonzero((right != wrong)[:, 0])
  return dataclasses.replace(pairs[rows], right=right[rows], wrong=wrong[rows])


def test_the_planted_group_is_found():
  net, params = planted()
  pairs = told(net, params, tiny.pairs(16))
  assert len(pairs) >= 4
  got = paths.patch(net, params, pairs, [paths.LOGITS], _METRIC, places=[-1])
  effects = np.abs(got.values[:, 0] - got.unpatched).max(axis=1)
  for name, effect in zip(got.labels[0], effects):
    tells = name in ("blocks.0.heads.1", "blocks.1.heads.0")
    assert (effect > 1e-6) == tells, name
  steps = [
    walks.Step("fetcher", at=-1, least=1e-9),
    walks.Step("detector", "fetcher", "v", -1, top=2),
  ]
  # Of this one any change is away from the clean run.
  first, second = walks.walk(net, params, pairs, steps, metrics.kl)
  assert {*first.heads} <= {"blocks.0.heads.1", "blocks.1.heads.0"}
  assert second.heads == ("blocks.0.heads.1",)
  assert second.members == (("blocks.0.heads.1", -1),)
  assert walks.overlap([first], [first]) == {"fetcher": (1.0, 1.0)}
  # Of all groups as large, the planted one alone does what the model does.
  heads = swaps.heads_of(net)
  judge = swaps.Judge(
    net, params, pairs, [(h, None) for h in heads], metrics.kl
  )
  kept = np.array([*itertools.combinations(range(4), 2)])
  rows = np.zeros((6, 4), bool)
  np.put_along_axis(rows, kept, True, axis=1)
  values = judge(rows)[0].mean(axis=1)
  assert {heads[i] for i in kept[values.argmax()]} == {
    "blocks.0.heads.1", "blocks.1.heads.0",
  }  # fmt: skip
  assert abs(values.max()) < _EXACT and np.sort(values)[-2] < -1e-3


def test_refusals():
  net, params = tiny.network()
  pairs = tiny.pairs()
  run = lambda receivers, **more: paths.patch(
    net, params, pairs, receivers, _METRIC, **more
  )
  early = [paths.Receiver("blocks.0.attn.q_in", 1)]
  for receivers, more, match in [
    ([], {}, "at least one receiver"),
    ([paths.Receiver("blocks.7.mlp.read")], {}, "No receiver 'blocks.7"),
    ([paths.Receiver("blocks.0.attn.q_in", 2)], {}, "rows 0..1; got 2"),
    ([*early, paths.LOGITS], {}, "the last one alone would be heard"),
    (early, {"senders": ["blocks.1.heads.0"]}, "writes behind the receivers"),
    (early, {"senders": ["blocks.9.mlp"]}, "No writer 'blocks.9.mlp'"),
    (early, {"senders": []}, "at least one sender"),
    (early, {"places": ["object"]}, "no span 'object'"),
    (early, {"places": [3]}, "Pair 1 of 3 tokens has no position 3"),
    (early, {"at": -9}, "has no position -9"),
    (early, {"direction": "both"}, "direction='both'"),
    (early, {"source": "nothing"}, "Unknown ablation 'nothing'"),
  ]:
    with pytest.raises(ValueError, match=match):
      run(receivers, **more)
  lacking = dataclasses.replace(
    pairs, spans=dataclasses.replace(
      pairs.spans, owner=np.where([[0], [1], [0]], 1, pairs.spans.owner)
    )
  )  # fmt: skip
  with pytest.raises(ValueError, match="Pair 1 of 3 tokens has no span 'subje"):
    paths.patch(net, params, lacking, early, _METRIC, places=["subject"])
  walk = lambda *steps: walks.walk(net, params, pairs, steps, _METRIC)
  with pytest.raises(ValueError, match="needs one of `top` and `least`"):
    walks.Step("a")
  with pytest.raises(ValueError, match="logits none"):
    walks.Step("a", port="q", top=1)
  with pytest.raises(ValueError, match="which no step before it finds"):
    walk(walks.Step("a", "b", "q", top=1))
  with pytest.raises(ValueError, match="is no head"):
    walks.into(net, ["blocks.0.mlp"], "q")
  with pytest.raises(ValueError, match="port='z'"):
    walks.into(net, ["blocks.0.heads.0"], "z")
