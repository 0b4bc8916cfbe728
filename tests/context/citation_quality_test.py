"""Measures of citations, by hand, and citations through an endpoint."""

import jax
import numpy as np
import pytest
from scipy import special

from spex_jax import context
from spex_jax.context import citation_quality, remote, sets, sources
from tests.context import games

_KEY = jax.random.key(0)


def test_average_precision_by_hand():
  # Ranks 1 and 3 of the two: (1/1 + 2/3) / 2.
  assert citation_quality.average_precision(
    [3, 2, 1, 0], [0, 2]
  ) == pytest.approx(5 / 6)
  # Four equal values: each has the last rank, of which a half supports.
  assert citation_quality.average_precision(
    [1, 1, 1, 1], [0, 2]
  ) == pytest.approx(0.5)
  with pytest.raises(ValueError, match=r"some of 0\.\.1"):
    citation_quality.average_precision([1, 2], [2])


def test_precision_and_recall_of_sets():
  made = lambda kind, *who: sets.CueSet(who, kind, 0.0, {})
  found = [[made("either", 0, 1), made("both", 2, 3)], []]
  truth = [[("either", (0, 1))], [("both", (0, 1))]]
  assert citation_quality.set_scores(found, truth) == (0.5, 0.5)
  assert citation_quality.set_scores([[]], [[]]) == (None, None)


def test_curves_of_an_additive_game_are_its_sums():
  n, weights = 7, np.arange(7.0)
  masks = (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)
  # Log-probabilities that are sums, as log-odds.
  logs = masks @ weights - 30
  game = games.Table(logs - np.log(-np.expm1(logs)), logs > -15)
  found = context.cite(game, key=_KEY, budget=40, method="lasso")
  judged = citation_quality.judge(found, game, key=_KEY, num_masks=20)
  descending = np.append(0, np.cumsum(weights[::-1]))
  np.testing.assert_allclose(judged.insertion, descending - 30, atol=1e-9)
  np.testing.assert_allclose(judged.removal, -9 - descending, atol=1e-9)
  np.testing.assert_allclose(judged.drops[3], 6 + 5 + 4, atol=1e-9)
  assert judged.lds > 0.99 and judged.r2 > 0.99


class _Service:
  """An endpoint that scores a token by how many stand before it."""

  url = "http://localhost/v1"

  def __init__(self, way):
    self.way, self.asked = way, 0

  def post(self, path, body):
    assert path == "/completions"
    self.asked += 1
    ids = body["prompt"]
    if self.way == "prompt_logprobs" and "prompt_logprobs" in body:
      tables = [
        {str(t): {"logprob": -float(k)}, "999": {"logprob": -3.5}}
        for k, t in enumerate(ids)
      ]
      return {"choices": [{"prompt_logprobs": [None, *tables[1:]]}]}
    if self.way == "echo" and body.get("echo"):
      logs = [None, *(-float(k) for k in range(1, len(ids)))]
      tops = [None, *({"a": -3.5, "b": -9.0} for _ in ids[1:])]
      return {
        "choices": [
          {"logprobs": {"token_logprobs": logs, "top_logprobs": tops}}
        ]
      }
    return {"choices": [{"text": "x"}]}


def _sources():
  return sources.of_ids([[1, 2], [3]], [4], games.tokenizer(), before=[5])


@pytest.mark.parametrize("way", remote.WAYS)
def test_an_endpoint_scores_the_kept_tokens(way):
  service = _Service(way)
  scorer = remote.scorer(service, "m", _sources(), [6, 7])
  masks = np.array([[True, True], [False, True], [False, False]])
  scores = scorer(masks)
  # The response stands behind 5, 3 and 2 tokens.
  want = -np.array([[5, 6], [3, 4], [2, 3]], float)
  np.testing.assert_allclose(scores.log_probs, want, rtol=1e-9)
  np.testing.assert_allclose(scores.log_odds, special.logit(np.exp(want)))
  if way == "prompt_logprobs":
    np.testing.assert_allclose(scores.margins, want + 3.5)
  found = context.cite(scorer, key=_KEY, budget=4)
  np.testing.assert_allclose(found.values, [-4, -2], atol=1e-9)


def test_what_an_endpoint_cannot_give_is_said_at_the_start():
  with pytest.raises(remote.Unscored, match="no log-probabilities"):
    remote.scorer(_Service("none"), "m", _sources(), [6])
  with pytest.raises(ValueError, match="by='best'"):
    remote.scorer(_Service("echo"), "m", _sources(), [6], by="best")
  with pytest.raises(ValueError, match="no tokens"):
    remote.scorer(_Service("echo"), "m", _sources(), [])
  scorer = remote.scorer(_Service("echo"), "m", _sources(), [6])
  with pytest.raises(ValueError, match="whole distributions"):
    context.cite(scorer, key=_KEY, method="jsd")
