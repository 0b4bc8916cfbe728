"""Citations against games of every mask, recorded ones, and a small network."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import special

from spex_jax import context
from spex_jax.ablate import batching, text, trie
from spex_jax.context import citing, scoring, sets, sources
from spex_jax.models import transformer
from tests.context import games
from tests.models import checkpoints

_KEY = jax.random.key(0)


def _shapley(values, n):
  """By its definition, over all orders of the sources."""
  out = np.zeros(n)
  orders = list(itertools.permutations(range(n)))
  for order in orders:
    kept = 0
    for i in order:
      out[i] += values[kept | 1 << i] - values[kept]
      kept |= 1 << i
  return out / len(orders)


def _either(n=5, first=1, second=3):
  """Either of two suffices: log-odds, and where the answer stands."""
  kept = games.masks(n)
  stands = kept[:, first] | kept[:, second]
  return np.where(stands, 2.0, -4.0) + 0.1 * kept[:, 0], stands


def _both(n=5, first=0, second=4):
  kept = games.masks(n)
  stands = kept[:, first] & kept[:, second]
  return np.where(stands, 1.0, -3.0) + 0.1 * kept[:, 2], stands


def test_values_of_all_masks_are_shapley_values_that_add_up():
  odds, stands = _either()
  found = context.cite(games.Table(odds, stands), key=_KEY, budget=32)
  values = -np.logaddexp(0, -odds)
  np.testing.assert_allclose(found.values, _shapley(values, 5), atol=1e-10)
  (total,) = found.totals()
  assert total.holds and found.r2 == 1
  assert found.to_dict()["r2_interval"] == [1, 1]
  np.testing.assert_allclose(total.pcxmi, values[-1] - values[0], atol=1e-12)
  np.testing.assert_allclose(total.sum, total.pcxmi, atol=1e-6)
  columns = found.sheet().columns
  np.testing.assert_array_equal(
    columns["value"], found.values[columns["source"]]
  )
  assert "iframe" in found._repr_html_()


@pytest.mark.parametrize("budget", [32, 24])
@pytest.mark.parametrize(
  "make, kind, pair", [(_either, "either", (1, 3)), (_both, "both", (0, 4))]
)
def test_sets_are_named_by_the_model(make, kind, pair, budget):
  odds, stands = make()
  game = games.Table(odds, stands)
  found = context.cite(game, key=_KEY, budget=budget, method="lasso")
  assert len(game.asked) <= budget
  (only,) = found.sets
  assert (only.kind, only.sources) == (kind, pair)
  assert only.words() == f"{kind} of [{pair[0]}], [{pair[1]}]"
  # The interaction of the corners, from the table itself.
  value = -np.logaddexp(0, -odds)
  i, j = (1 << each for each in pair)
  corners = value[31] - value[31 ^ i] - value[31 ^ j] + value[31 ^ i ^ j]
  np.testing.assert_allclose(only.value, corners, atol=1e-12)
  assert (corners < 0) == (kind == "either")


@pytest.mark.parametrize(
  "n, budget", [(11, 32), pytest.param(24, 64, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["either", "both"])
def test_sets_of_more_sources_than_the_reserve_has_masks(kind, n, budget):
  both = kind == "both"
  stands = lambda m: m[:, 2] & m[:, 7] if both else m[:, 2] | m[:, 7]
  odds = lambda m: np.where(stands(m), 2.0, -4.0) + 0.1 * m[:, 0]
  game = games.Rule(n, odds, stands)
  found = context.cite(game, key=_KEY, budget=budget, method="gaussian")
  assert len(game.asked) <= budget
  assert [(each.kind, each.sources) for each in found.sets] == [(kind, (2, 7))]
  assert found.needed == ((2, 7) if both else ())
  (note,) = found.notes
  assert f"of {n} sources, the strongest; budget={3 * (n + 2)} looks" in note


def test_a_budget_without_room_for_sets_says_so():
  stands = lambda m: m[:, 2] | m[:, 7]
  game = games.Rule(12, lambda m: np.where(stands(m), 2.0, -4.0), stands)
  found = context.cite(game, key=_KEY, budget=9, method="gaussian")
  assert found.notes[1:] == (
    "Sets were not looked for: raise the budget to 42.",
  )


def test_an_answer_likelier_without_sources_needs_none():
  stands = games.masks(5).all(axis=1)
  game = games.Table(np.where(stands, -4.0, 2.0), stands)
  found = context.cite(game, key=_KEY, budget=32)
  assert found.total < 0 and found.needed == found.sets == ()


def test_what_its_corners_do_not_show_is_no_set():
  # As on a real prompt: the answer tips without the first two, which add up.
  kept = games.masks(5)
  stands = kept[:, 3] & (kept[:, 0] | kept[:, 1])
  odds = 3.0 * kept[:, 3] + 0.5 * kept[:, 0] + 0.5 * kept[:, 1] - 4
  found = context.cite(games.Table(odds, stands), key=_KEY, budget=32)
  assert found.sets == () and found.needed == (3,)
  # Nor is a source whose loss tips it by a trifle one of two that are needed.
  stands = kept[:, 3] & kept[:, 4]
  found = context.cite(games.Table(odds, stands), key=_KEY, budget=32)
  assert found.sets == () and found.needed == (3, 4)


def test_an_interval_may_contradict_a_set():
  made = lambda kind, *ends: sets.CueSet((0, 1), kind, -1.0, {}, ends or None)
  assert sets.contradicted(made("either", 0.1, 0.4))
  assert not sets.contradicted(made("either", -0.1, 0.4))
  assert not sets.contradicted(made("both", 0.1, 0.4))
  assert not sets.contradicted(made("either"))


def test_what_counts_only_beside_another_is_ranked_by_its_loss():
  # A filler adds more than half of what the weaker of two needed ones adds.
  kept = games.masks(5)
  odds = -30 + 3.0 * kept[:, 0] + 0.5 * (kept[:, 0] & kept[:, 4])
  odds += 0.4 * kept[:, 2]
  game = games.Table(odds, kept[:, 0] & kept[:, 4])
  found = context.cite(game, key=_KEY, budget=32)
  assert sets.ranked(found.values).tolist()[:2] == [0, 2]
  assert sets.ranked(found.strengths).tolist()[:3] == [0, 4, 2]
  # Log-odds of -26 and less are log-probabilities but for e^-26.
  np.testing.assert_allclose(found.strengths[[0, 4]], [3.5, 0.5], atol=1e-9)
  assert sorted(found.needed) == [0, 4]
  np.testing.assert_allclose(found.values.sum(), found.total, atol=1e-9)
  peer = context.cite(game, key=_KEY, budget=32, method="leave_one_out")
  np.testing.assert_array_equal(peer.strengths, peer.values)


def test_each_of_two_copies_is_as_strong_as_both():
  odds, stands = _either()
  found = context.cite(games.Table(odds, stands), key=_KEY, budget=32)
  (only,) = found.sets
  value = -np.logaddexp(0, -odds)
  loss = value[31] - value[31 ^ 2 ^ 8]
  np.testing.assert_allclose(only.loss, loss, atol=1e-12)
  np.testing.assert_allclose(found.strengths[[1, 3]], loss, atol=1e-12)
  others = [0, 2, 4]
  np.testing.assert_array_equal(found.strengths[others], found.values[others])


def test_a_sum_that_is_made_to_hold_says_so():
  odds, stands = _either()
  for budget, known in ((32, True), (24, False)):
    game = games.Table(odds, stands)
    found = context.cite(game, key=_KEY, budget=budget, method="lasso")
    (total,) = found.totals()
    assert total.holds and total.known == known == total.to_dict()["known"]
    assert ("by construction" in str(total)) != known


def test_three_copies_are_one_set():
  kept = games.masks(6)
  stands = kept[:, [0, 2, 5]].any(axis=1)
  game = games.Table(np.where(stands, 2.0, -4.0), stands)
  (only,) = context.cite(game, key=_KEY, budget=64).sets
  assert (only.kind, only.sources) == ("either", (0, 2, 5))


def test_recorded_games_are_read_as_they_are():
  for row in games.given():
    if len(row["masks"]) < 1 << row["n"]:
      continue
    found = context.cite(games.game(row), key=_KEY, budget=1 << row["n"])
    support = sorted({i for each in row["support"] for i in each})
    top = np.argsort(-found.values)[: len(support)]
    assert sorted(top.tolist()) == support, row["id"]
    pairs = [(each.kind, list(each.sources)) for each in found.sets]
    kinds = {"joint": "both", "duplicated": "either"}
    want = [(kinds[row["kind"]], support)] if row["kind"] in kinds else []
    assert pairs == want, row["id"]


def test_spans_are_read_without_another_forward():
  rng = np.random.default_rng(0)
  odds = rng.normal(size=(32, 4))
  game = games.Table(odds, np.ones(32, bool), ("a", " b", ".", " C"))
  found = context.cite(game, key=_KEY, budget=32)
  asked = len(game.asked)
  values = -np.logaddexp(0, -odds[:, 1:3]).sum(axis=1)
  np.testing.assert_allclose(
    found.span(1, 3).values, _shapley(values, 5), atol=1e-10
  )
  # Log-probabilities of tokens add up, and so do shares of them.
  parts = sum(total.values for total in found.totals())
  np.testing.assert_allclose(parts, found.values, atol=1e-9)
  assert all(total.holds for total in found.totals())
  assert [s for s, _ in found.sentences()] == [
    found.span(0, 3), found.span(3, 4),
  ]  # fmt: skip
  assert len(game.asked) == asked
  with pytest.raises(ValueError, match="outside the 4 tokens"):
    found.span(2, 5)


def test_leaving_out_and_its_hierarchy_and_proxy():
  odds, stands = _both()
  value = -np.logaddexp(0, -odds)
  want = np.array([value[31] - value[31 ^ 1 << i] for i in range(5)])
  game = lambda: games.Table(odds, stands)
  cite = functools.partial(context.cite, key=_KEY, method="leave_one_out")
  np.testing.assert_allclose(cite(game(), budget=6).values, want, atol=1e-12)
  few = cite(game(), budget=3, proxy=game(), keep=2)
  np.testing.assert_allclose(few.values[[0, 4]], want[[0, 4]], atol=1e-12)
  assert few.forwards == 3 and not few.values[[1, 2, 3]].any()
  with pytest.raises(ValueError, match="takes 6 forwards"):
    cite(game(), budget=5)


def test_shapley_by_masks_of_its_kernel():
  odds, stands = _either(n=8)
  game = games.Table(odds, stands)
  found = context.cite(game, key=_KEY, budget=100, method="shapley")
  want = _shapley(-np.logaddexp(0, -odds), 8)
  # About 100 masks: an eighth of the two copies' shares.
  np.testing.assert_allclose(found.values, want, atol=want.max() / 4)
  np.testing.assert_allclose(found.values.sum(), found.total, atol=1e-6)


def test_log_odds_of_a_span_keep_their_digits():
  odds = np.array([[30.0, 25.0], [-40.0, 2.0]])
  scores = scoring.Scores(odds, odds)
  p = special.log_expit(odds).sum(axis=1)
  want = [
    -np.log(special.expit(-odds[0]).sum()),
    p[1] - np.log1p(-np.exp(p[1])),
  ]
  np.testing.assert_allclose(scores.of("log_odds"), want, rtol=1e-9)


def test_pruning_keeps_what_counts():
  odds, stands = _both()
  found = context.cite(games.Table(odds, stands), key=_KEY, budget=32)
  text, kept = context.prune(found)
  assert kept == (0, 4)
  assert text == found.sources.kept_text([0, 4])
  assert context.prune(found, keep=0)[1] == ()
  with pytest.raises(ValueError, match="keep must lie"):
    context.prune(found, keep=6)


def test_pruning_to_all_of_the_effect_keeps_what_makes_it():
  rng = np.random.default_rng(0)
  for _ in range(200):
    odds = rng.normal(size=8) + 2 * games.masks(3)[:, 0]
    made = games.Table(odds, np.ones(8))
    found = context.cite(made, key=_KEY, budget=8, method="exact")
    if found.total > 0:
      assert context.prune(found, share=1.0)[1]


@pytest.mark.parametrize("value", scoring.VALUES)
def test_what_is_cited_depends_on_the_unit(value):
  # Of a half to two thirds: less than twice, of probabilities all there is.
  stands = games.masks(3)[:, 1]
  game = games.Table(np.where(stands, 0.7, 0.0), stands)
  found = context.cite(game, key=_KEY, budget=8, value=value)
  want = {"log_probability": (), "log_odds": (1,), "probability": (1,)}
  assert found.sentences()[0][1] == want[value]


def test_calibrated_none():
  nulls = np.arange(19.0)
  assert citing.calibrate(nulls, 0.95) > 18
  with pytest.raises(ValueError, match="it takes 19"):
    citing.calibrate(nulls[:18], 0.95)
  odds, stands = _both()
  found = context.cite(games.Table(odds, stands), key=_KEY, budget=32)
  ((_, cited),) = found.sentences()
  assert sorted(cited) == [0, 4]
  assert found.sentences(threshold=1e3)[0][1] == ()


_IDS = ([[3, 1], [4, 15, 9], [2, 6]], [5, 3], [5, 8])


@functools.cache
def _net():
  return checkpoints.compiled(checkpoints.GPT2)[0].net


def _scorer(**settings):
  made = sources.of_ids(*_IDS[:2], games.tokenizer(), before=[7])
  return scoring.scorer(_net(), made, _IDS[2], batch_size=8, **settings)


def _alone(ids):
  """Log-probabilities that predict the response, from a run by itself."""
  logits = checkpoints.compiled(checkpoints.GPT2)[0].logits(ids)[-3:-1]
  return logits - special.logsumexp(logits, axis=-1, keepdims=True), logits


def _runs():
  for kept in games.masks(3):
    some = [i for ids, k in zip(_IDS[0], kept) if k for i in ids]
    yield [7, *some, *_IDS[1], *_IDS[2]]


def test_removal_is_a_run_without_the_sources():
  scores = _scorer()(games.masks(3))
  for row, ids in enumerate(_runs()):
    logs, logits = _alone(ids)
    own = logs[[0, 1], _IDS[2]]
    # Two blocks in float32.
    np.testing.assert_allclose(scores.log_probs[row], own, atol=2e-5)
    others = np.where(
      np.eye(logits.shape[1], dtype=bool)[_IDS[2]], -np.inf, logits
    )
    want = logits[[0, 1], _IDS[2]] - others.max(axis=1)
    np.testing.assert_allclose(scores.margins[row], want, atol=2e-5)


def test_jensen_shannon_of_leaving_one_out():
  found = citing.cite(_scorer(), key=_KEY, budget=4, method="jsd")
  # At most ln 2 a token, so that the strongest is cited at any size.
  assert found.values[found.sentences()[0][1][0]] == found.values.max() > 0
  runs = [np.exp(_alone(ids)[0]) for ids in _runs()]
  full = runs[-1]
  for i in range(3):
    p = runs[7 ^ 1 << i]
    m = (p + full) / 2
    apart = ((p * np.log(p / m)).sum() + (full * np.log(full / m)).sum()) / 2
    np.testing.assert_allclose(found.values[i], apart, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "leave_one_out", "jsd"])
def test_no_size_is_measured_for_a_small_job(method, monkeypatch):
  monkeypatch.delattr(batching, "choose")  # Timings differ from run to run.
  made = sources.of_ids(*_IDS[:2], games.tokenizer(), before=[7])
  said = []
  context.cite(
    _net(), made, _IDS[2], key=_KEY, budget=8, method=method, tell=said.append
  )
  assert said


def test_a_network_and_the_answer_that_it_makes():
  made = sources.of_ids(*_IDS[:2], games.tokenizer(), before=[7])
  said = []
  found = context.cite(
    _net(), made, key=_KEY, budget=8, max_new_tokens=2, batch_size=8,
    tell=said.append,
  )  # fmt: skip
  assert found.whole.criterion == "greedy" and found.forwards == 8
  assert "3 sources, 12 tokens, at most 8 forwards" in said[0]
  assert all(total.holds for total in found.totals())


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda cite: cite(method="best"), "method"),
    (lambda cite: cite(value="bits"), "value"),
    (lambda cite: cite(budget=4), "fit in budget=4"),
    (lambda cite: cite(proxy=1), "are of method='leave_one_out'"),
  ],
)
def test_what_cannot_be_asked_is_named(call, match):
  game = games.Table(*_either())
  with pytest.raises(ValueError, match=match):
    call(functools.partial(context.cite, game, key=_KEY))


def test_a_response_of_no_tokens_is_named():
  made = sources.of_ids(*_IDS[:2], games.tokenizer())
  with pytest.raises(ValueError, match="response has no tokens"):
    context.cite(_net(), made, [], key=_KEY)
  with pytest.raises(TypeError, match="network with sources"):
    context.cite(lambda masks: masks, key=_KEY)


def test_interval_holds_the_interaction():
  rng = np.random.default_rng(0)
  masks = rng.random((200, 6)) < 0.5
  values = 2.0 * (masks[:, 0] & masks[:, 1]) + rng.normal(size=200)
  low, high = sets.interval(masks, values, (0, 1))
  assert low < 2 < high and high - low < 2
  assert sets.interval(masks[:5], values[:5], (0, 1)) is None


def test_caches_beyond_the_memory_are_not_used(monkeypatch):
  monkeypatch.setattr(scoring, "_LONG", 8)
  _scorer(memory_limit=1 << 10)  # Whole rows.
  with pytest.raises(MemoryError, match="raise memory_limit"):
    _scorer(memory_limit=1 << 10, reuse=True)


@pytest.mark.parametrize("block", [2, 16])
@pytest.mark.parametrize("window", [None, 3])
def test_shared_beginnings_change_no_value(block, window):
  net, masks = _net(), games.masks(4)
  if window is not None:
    windows = (None,) + (window,) * (net.config.num_blocks - 1)
    config = dataclasses.replace(net.config, windows=windows)
    net = dataclasses.replace(transformer.network(config), params=net.params)
  made = sources.of_ids(
    [[3, 1], [4], [4, 15, 9], [2, 6, 5]], [5, 3], games.tokenizer(), before=[7]
  )
  want = scoring.scorer(net, made, _IDS[2], reuse=False, batch_size=8)(masks)
  whole, count = text.continued(made.prompt, _IDS[2], games.tokenizer())
  run = trie.evaluator(
    net, whole, count, scoring.odds_and_margins, params=net.params,
    tokenizer=games.tokenizer(), batch_size=3, block=block,
  )  # fmt: skip
  assert run.prepare().memory_bytes > 0
  odds, margins = np.split(run(masks[::-1])[::-1], 2, axis=1)
  assert run.stats.batches == 6  # 16 rows, 3 at a time.
  # Two blocks in float32, whose sums have another order.
  np.testing.assert_allclose(odds, want.log_odds, atol=2e-5)
  np.testing.assert_allclose(margins, want.margins, atol=2e-5)
