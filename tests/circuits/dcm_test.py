"""Learned masks against derivatives by differences, and all masks there are."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from spex_jax.circuits import dcm, desiderata, metrics, runs, swaps
from tests.circuits import paths_test, tiny

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference
_KEY = 7


def _members(net):
  return [(head, -1) for head in swaps.heads_of(net)]


def _planted():
  """One head of four tells the last token what the source says."""
  net, params = paths_test.planted()
  params["blocks_1"]["attn"]["out"]["kernel"][:] = 0
  pairs = paths_test.told(net, params, tiny.pairs(48))
  triples = dataclasses.replace(pairs, right=pairs.wrong, wrong=pairs.right)
  return net, params, desiderata.Desideratum("value", triples)


def test_learning_is_adam_by_differences():
  """The loss and its slopes by whole forwards, Adam and rounding in NumPy."""
  net, params = tiny.network()
  one = desiderata.telling(
    net, params, desiderata.Desideratum("x", tiny.pairs(6))
  )
  penalty, rate, epochs, step = 0.05, 0.3, 3, 1e-5
  (found,) = dcm.learn(
    net, params, [one], _members(net), key=jax.random.key(_KEY),
    penalties=(penalty,), epochs=epochs, size=len(one), rate=rate,
    validation=[one],
  )  # fmt: skip
  layout = swaps.Layout.of(net, _members(net))
  assert layout.rest(one.triples) == 1  # Of 4 tokens.
  (batch,) = runs.batches(one.triples, len(one))
  where = layout.where(one.triples)

  @jax.jit
  def metric(gate):
    values = swaps.captured(net, params, layout.touched(net), batch.corrupted)
    clean = runs.logits(net, params, batch)
    edits = layout.edits(layout.gates(2, gate, where), values)
    return runs.measured(net, params, _METRIC, batch, clean, edits).mean()

  loss = lambda gate: penalty * (1 - gate).sum() - float(metric(gate))
  gate, first, second = np.ones(4), np.zeros(4), np.zeros(4)
  losses, masks = [], []
  for time in range(1, epochs + 1):
    losses.append(loss(gate))
    slope = np.array(
      [(loss(gate + x) - loss(gate - x)) / (2 * step) for x in step * np.eye(4)]
    )
    first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 1e-3 * slope**2
    root = np.sqrt(second / (1 - 0.999**time)) + 1e-8
    gate = np.clip(gate - rate * first / (1 - 0.9**time) / root, 0, 1)
    masks.append(gate > 0.5)
  assert np.ptp(losses) > 0.1 and len({tuple(x) for x in masks}) > 1
  # Of second order: step^2 is 1e-10, and rounding 1e-16 / step; the strength of
  # the penalty is a float32.
  np.testing.assert_allclose(found.loss[0, 0], losses, rtol=0, atol=1e-6)
  assert any((found.masks[0, 0] == mask).all() for mask in masks)


@pytest.mark.parametrize(
  "penalty", ["l1", pytest.param("l0", marks=pytest.mark.slow)]
)
def test_the_planted_head_is_learned(penalty):
  net, params, one = _planted()
  assert len(one) >= 8
  other = dataclasses.replace(one[::-1], name="again")
  found = dcm.learn(
    net, params, [one, other], _members(net), key=jax.random.key(_KEY),
    penalties=(0.01, 0.1), seeds=2, penalty=penalty, epochs=12, size=8,
    rate=0.3,
  )  # fmt: skip
  assert [x.desideratum for x in found] == ["value", "again"]
  for learned in found:
    assert learned.masks.shape == (2, 2, 4)
    assert learned.patched == ("blocks.0.heads.1 @ -1",)
    assert learned.accuracy[learned.chosen] == learned.every == 1
    assert learned.none == 0
    assert "1 of 4 patched" in str(learned)
    assert learned.fewest(0.5).patched == learned.patched
  judge = swaps.Judge(net, params, one.triples, _members(net), _METRIC)
  beside = dcm.beside(judge, found[0])
  assert beside.method == "enumerated" and beside.rank == 0
  np.testing.assert_array_equal(beside.mask, found[0].mask)
  assert beside.distance == 0
  assert "0 masks are better" in str(beside)


@pytest.mark.slow
def test_expansions_stand_beside(monkeypatch):
  net, params, one = _planted()
  (found,) = dcm.learn(
    net, params, [one], _members(net), key=jax.random.key(_KEY), epochs=2
  )
  monkeypatch.setattr(dcm, "ENUMERABLE", 2)
  judge = swaps.Judge(net, params, one.triples, _members(net), _METRIC)
  with pytest.raises(ValueError, match="give a key"):
    dcm.beside(judge, found)
  beside = dcm.beside(
    judge, found, method="exact", budget=16, key=jax.random.key(0)
  )
  assert not beside.mask[1] and beside.rank is None
  assert beside.distance >= -1e-9


@pytest.mark.slow
def test_together_and_alone():
  """Restarts under one `vmap` are those that run alone."""
  net, params, one = _planted()
  run = lambda **more: dcm.learn(
    net, params, [one], _members(net), key=jax.random.key(_KEY), epochs=2,
    **more,
  )  # fmt: skip
  (both,) = run(penalties=(0.01, 0.3))
  for i, penalty in enumerate((0.01, 0.3)):
    (alone,) = run(penalties=(penalty,))
    np.testing.assert_allclose(both.loss[i], alone.loss[0], atol=1e-5)


def _row(**changes):
  row = {"base_ids": [1, 2, 3], "source_ids": [1, 4, 3], "target_ids": [5],
         "desideratum": "value"}  # fmt: skip
  return row | changes


def test_rows_and_files(tmp_path):
  path = tmp_path / "some.jsonl"
  rows = [_row(), _row(desideratum="place", target_ids=[6]), _row()]
  path.write_text("\n".join(map(json.dumps, rows)))
  found = desiderata.load(path)
  assert [(x.name, len(x)) for x in found] == [("value", 2), ("place", 1)]
  both = desiderata.joint(found)
  assert both.name == "value & place" and len(both) == 3
  np.testing.assert_array_equal(both.triples.right[:, 0], [5, 5, 6])
  np.testing.assert_array_equal(both.triples.corrupted[0], [1, 4, 3])


def test_refusals(tmp_path):
  with pytest.raises(ValueError, match="'value': Pair 0: the base prompt has"):
    desiderata.from_rows([_row(source_ids=[1, 2])])
  with pytest.raises(ValueError, match="Pair 0 has no 'source_ids'"):
    desiderata.from_rows([{"base_ids": [1, 2], "target_ids": [1]}])
  with pytest.raises(ValueError, match="zero rows"):
    desiderata.from_rows([])
  with pytest.raises(ValueError, match="there is no tokenizer"):
    desiderata.from_rows([{"base": "a", "source": "b", "target": "c"}])
  with pytest.raises(FileNotFoundError, match="There is no file"):
    desiderata.load(tmp_path / "none.jsonl")
  net, params, one = _planted()
  run = lambda some=(one,), members=None, **more: dcm.learn(
    net, params, some, members or _members(net), key=jax.random.key(0), **more
  )
  # Only the answers that source and base give alike: nothing is told.
  pair = one.triples[:1]
  says = lambda c: tiny.alone(pair, net, params, corrupted=c).argmax()
  assert says(False) != says(True)
  given = [int(says(False)), int(says(True))]
  idle = desiderata.Desideratum(
    "idle", dataclasses.replace(one.triples[:1], right=[given],
                                wrong=np.zeros((1, 0), int))
  )  # fmt: skip
  with pytest.raises(ValueError, match="'idle' has no valid example"):
    run([idle])
  # Among others it is left out.
  both = desiderata.joint([one, idle])
  assert len(desiderata.telling(net, params, both)) == len(both) - 1
  for some, more, match in [
    ([one, one], {}, "different names"),
    ([one], {"penalty": "l2"}, "penalty='l2'"),
    ([one], {"epochs": 0}, "an epoch"),
    ([one[:1]], {}, "needs 2 valid triples"),
    ([one], {"validation": [idle]}, "no validation of 'value'"),
    ([one], {"members": [("blocks.0.heads.1", 9)]}, "has no position 9"),
    ([one], {"members": [("final_norm", -1)]}, "is no head or MLP"),
  ]:
    with pytest.raises(ValueError, match=match):
      run(some, **more)
