"""Members that hold something else; circuits of heads; other models' heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import cmap, groups, metrics, swaps, walks
from spex_jax.models import sites
from tests.circuits import tiny
from tests.models import checkpoints

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference
_EXACT = 1e-10


def _read(pair, logits):
  return _METRIC(logits, logits, pair.right[0], pair.wrong[0])


def _masked(pair, at):
  where = np.zeros((1, int(pair.lengths[0]), 1, 1), bool)
  where[:, at] = True
  return where


_MEMBERS = [("blocks.0.heads.1", "subject"), ("blocks.1.heads.0", -1),
            ("blocks.0.mlp", -1)]  # fmt: skip


def test_one_kept_and_none():
  net, params = tiny.network()
  pairs = tiny.pairs()
  # Places overlap in a pair of three tokens where a span has the last one.
  with pytest.raises(ValueError, match="overlap at position"):
    swaps.Layout.of(
      net, [("blocks.0.mlp", -1), ("blocks.0.mlp", "rest")]
    ).where(pairs)
  judge = swaps.Judge(net, params, pairs, _MEMBERS, _METRIC, size=2, at_once=2)
  kept = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
  values, right = judge(kept)
  assert values.shape == right.shape == (4, 3)
  np.testing.assert_array_equal(values[0], judge.metric)
  for row in (0, 1):
    pair = pairs[row : row + 1]
    for i, (writer, _) in enumerate(_MEMBERS):
      at = np.flatnonzero(pair.spans.owner[0] == 0) if i == 0 else -1
      where = _masked(pair, at)
      name = f"{writer.split('.heads')[0]}.attn.z"
      if i == 2:
        name, where = "blocks.0.mlp.out", where[..., 0]
      else:
        where = where & (np.arange(2) == int(writer[-1]))[None, None, :, None]
      other = tiny.activation(pair, net, params, name, corrupted=True)
      edits = sites.Edits(replace={name: (where, other)})
      logits = tiny.alone(pair, net, params, edits)
      np.testing.assert_allclose(
        values[i + 1, row], _read(pair, logits), atol=_EXACT
      )
      assert right[i + 1, row] == (logits.argmax() == pair.right[0, 0])
  # Where nothing is put in before them, the last tokens alone are run.
  late = [(writer, "rest") for writer, _ in _MEMBERS]
  judge = lambda some: swaps.Judge(net, params, pairs, some, _METRIC, size=2)
  few, all_tokens = judge(late), judge([*late, ("blocks.1.mlp", "subject")])
  assert few.layout.rest(pairs) == 2
  assert all_tokens.layout.rest(pairs) == 4
  whole = np.concatenate([kept, np.ones((4, 1), bool)], axis=1)
  for got, want in zip(few(kept), all_tokens(whole)):
    np.testing.assert_allclose(got, want, atol=_EXACT)


def test_heads_outside_hold_means():
  net, params = tiny.network()
  pairs = tiny.pairs()
  judge = swaps.Judge(
    net, params, pairs, _MEMBERS[:2], _METRIC, ablation="mean-position", size=2
  )
  values, _ = judge(np.array([[True, False]]), np.zeros(1))
  rows = [pairs[i : i + 1] for i in range(3)]
  pair, replace = rows[1], {}
  for block in (0, 1):
    name = f"blocks.{block}.attn.z"
    each = [tiny.activation(one, net, params, name)[0] for one in rows]
    mean = np.stack([
      np.mean([z[p] for z in each if p < len(z)], axis=0) for p in range(3)
    ])  # fmt: skip
    where = np.ones((1, 3, 2, 1), bool)
    if block == 0:
      where[:, pair.spans.owner[0] == 0, 1] = False
    replace[name] = where, mean[None]
  logits = tiny.alone(pair, net, params, sites.Edits(replace=replace))
  np.testing.assert_allclose(values[0, 1], _read(pair, logits), atol=_EXACT)


@pytest.mark.slow
def test_circuits_of_heads_are_judged():
  net, params = tiny.network()
  pairs = tiny.pairs(8)
  every = [
    walks.Group("late", -1, ("blocks.1.heads.0", "blocks.1.heads.1")),
    walks.Group("early", -1, ("blocks.0.heads.1",)),
  ]
  found = groups.evaluate(
    net, params, pairs, every, _METRIC, of="metric", random=2, size=4
  )
  judge = swaps.Judge(
    net, params, pairs, [m for g in every for m in g.members], _METRIC,
    ablation="mean-position",
  )  # fmt: skip
  ask = lambda kept, rest: judge(np.array([kept], bool), np.array([rest]))[0][0]
  circuit = ask([1, 1, 1], 0).mean()
  np.testing.assert_allclose(found.circuit.value, circuit, atol=_EXACT)
  np.testing.assert_allclose(found.model.value, judge.metric.mean())
  gap = abs((ask([0, 0, 1], 0) - ask([0, 0, 1], 1)).mean())
  np.testing.assert_allclose(found.completeness["late"].value, gap, atol=1e-9)
  worth = (circuit - ask([0, 1, 1], 0).mean()) / circuit
  alone, _ = found.minimality["blocks.1.heads.0 @ -1"]
  np.testing.assert_allclose(alone.value, worth, atol=1e-9)
  assert alone.low <= alone.value <= alone.high
  assert len(found.random) == 2
  assert "faithfulness" in str(found)
  nodes = groups.circuit(net, every).nodes
  assert {*net.writers} - {*nodes} == {"blocks.0.heads.0"}
  with pytest.raises(ValueError, match="F is of"):
    groups.evaluate(net, params, pairs, every, _METRIC, of="loss")


def _tuned(params):
  """Other parameters of the same shapes."""
  rng = np.random.default_rng(11)
  return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), params)


@pytest.mark.parametrize(
  "kind,forms",
  [
    ("llama", ("out", "qkv")),
    pytest.param("gpt2", ("out", "q", "qkv"), marks=pytest.mark.slow),
  ],
)
def test_heads_of_another_model(kind, forms):
  net, params = tiny.network(kind)
  tuned, pairs = _tuned(params), tiny.pairs()
  some = {"one": [_MEMBERS[1]], "early": [_MEMBERS[0]]}
  got = cmap.run(net, params, tuned, pairs, some, _METRIC, forms=forms, size=2)
  assert got.same < 1e-10 and got.whole < 1e-10
  assert got.values.shape == (2 * len(forms), 3)
  by_name = dict(zip(got.names, got.values))
  row, pair = 1, pairs[1:2]
  for group, block, head, at in (
    ("one", 1, 0, -1),
    ("early", 0, 1, np.flatnonzero(pair.spans.owner[0] == 0)),
  ):
    site = f"blocks.{block}.attn"
    member = _masked(pair, at) & (np.arange(2) == head)[None, None, :, None]
    other = {
      part: tiny.activation(pair, net, tuned, f"{site}.{part}")
      for part in ("q", "k", "v", "z")
    }
    put = lambda z: _read(
      pair,
      tiny.alone(
        pair, net, params,
        sites.Edits(replace={f"{site}.z": (member, z)}),  # noqa: B023
      ),
    )  # fmt: skip
    np.testing.assert_allclose(
      by_name[f"{group}, out"][row], put(other["z"]), atol=_EXACT
    )
    for form in forms[1:]:
      # What the head gathers with these, then put in by itself.
      where = {"q": member}
      if form == "qkv":
        shared = 0 if kind == "llama" else head
        kv = np.arange(net.config.num_kv_heads) == shared
        where |= dict.fromkeys("kv", kv[None, None, :, None])
      edits = sites.Edits(
        replace={f"{site}.{p}": (w, other[p]) for p, w in where.items()}
      )
      ids = jnp.asarray(pair.clean[:, : int(pair.lengths[0])])
      run = net.apply(params, edits, capture=(f"{site}.z",), input_ids=ids)
      z = np.asarray(run.activations[f"{site}.z"])
      np.testing.assert_allclose(
        by_name[f"{group}, {form}"][row], put(z), atol=_EXACT
      )
  same = cmap.run(net, params, params, pairs, some, _METRIC, size=2)
  np.testing.assert_allclose(same.values, same.base[[0, 0]], atol=_EXACT)
  with pytest.raises(ValueError, match="there is no gain"):
    same.share("metric")
  rows = got.rows()
  assert rows[0]["group"] == "base" and rows[-1]["group"] == "tuned"
  assert all(r["low"] <= r["accuracy"] <= r["high"] for r in rows)
  assert got.share("metric").shape == (2 * len(forms),)


def test_refusals():
  net, params = tiny.network()
  pairs = tiny.pairs()
  run = lambda some, **more: cmap.run(
    net, params, more.pop("tuned", params), pairs, some, _METRIC, **more
  )
  other, _ = tiny.network("llama")
  some = {"one": _MEMBERS[:1]}
  with pytest.raises(ValueError, match="tuned model is of another"):
    run(some, tuned=checkpoints.random_params(other))
  for given, more, match in [
    ({}, {}, "Name groups"),
    (some, {"forms": ("z",)}, "form='z': choose from out"),
    ({"a": _MEMBERS[2:]}, {"forms": ("q",)}, "MLPs have no queries"),
    ({"a": [("embed", None)]}, {}, "is no head or MLP"),
    ({"a": []}, {}, "Members must be distinct"),
  ]:
    with pytest.raises(ValueError, match=match):
      run(given, **more)
  judge = lambda **more: swaps.Judge(
    net, params, pairs, _MEMBERS, _METRIC, **more
  )
  with pytest.raises(ValueError, match="Unknown ablation 'best'"):
    judge(ablation="best")
  longer = pairs.padded(6)
  with pytest.raises(ValueError, match="prompts of 6 positions"):
    judge(ablation="mean-position", background=longer)
