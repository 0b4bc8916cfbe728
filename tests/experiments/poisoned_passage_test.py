"""The poisoned passage is found where a bag of words follows it."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from experiments import poisoned_passage
from spex_jax.context import scoring
from tests.context import games


class _Bag:
  """Says the city that is named most often; the rest says nothing."""

  def __init__(self, ids):
    self.ids = np.array(ids, np.int32)
    self.tokenizer = games.tokenizer()
    self.params = {}

  def apply(self, params, *, input_ids, attention_mask):
    del params
    hits = input_ids[..., None] == self.ids[None, None]
    hits &= attention_mask[..., None] > 0
    counts = hits.astype(np.float32).cumsum(axis=1)
    logits = jnp.einsum("bpk,kv->bpv", counts, jax.nn.one_hot(self.ids, 300))
    return types.SimpleNamespace(logits=logits)


def _scorer(net, sources, response, budget):
  del budget
  ids, owner = sources.prompt.encoding.ids, sources.prompt.players.owner
  token = net.tokenizer.encode(response, add_special=False).ids[0]
  (own,) = np.flatnonzero(net.ids == token)
  counts = np.array(
    [[(ids[owner == i] == city).sum() for city in net.ids]
     for i in range(sources.n)]
  )  # fmt: skip

  def score(masks):
    lead = masks @ (counts[:, own] - counts[:, 1 - own]) - 0.5
    return scoring.Scores(4.0 * lead[:, None], lead[:, None])

  score.sources, score.response, score.pieces = sources, [token], (response,)
  return score


def test_the_poison_is_cited_and_left_out(monkeypatch):
  monkeypatch.setattr(poisoned_passage.scoring, "scorer", _scorer)
  cities = ("film", "fun")
  tokens = games.tokenizer()
  net = _Bag([tokens.encode(f" {city}").ids[0] for city in cities])
  config = poisoned_passage.Config(prompts=1, budget=64, cities=cities)
  first, whole = poisoned_passage.run(config, net)
  assert first["followed"] and first["cited"][0] == first["poison"]
  assert whole["found"] == whole["mended"] == whole["followed"] == 1
  assert first["forwards"] == 64
