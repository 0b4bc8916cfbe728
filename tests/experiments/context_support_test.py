"""The study of support runs on recorded games, and says what it found."""

import json
import types

import jax
import numpy as np
from scipy import special

from experiments import context_support
from spex_jax.context import scoring
from tests.context import games


def test_rows_of_the_quick_study(tmp_path):
  path = tmp_path / "given.jsonl"
  path.write_text("\n".join(json.dumps(row) for row in games.given()))
  prompts = list(context_support.given(path))
  config = context_support.CONFIGS["quick"]
  rows = list(context_support.run(config, prompts))
  whole = [row for row in rows if row["prompt"] == "all"]
  assert len(whole) == len(config.methods) * len(config.budgets)
  for row in whole:
    assert row["forwards"] <= row["budget"]
    assert row["removal"] < row["insertion"]
    if row["method"] == "lasso":
      assert row["average_precision"] == 1
      assert row["set_recall"] == row["set_precision"] == 1


class _Planted:
  """Answers by the sentences that say so, and by both that must be there."""

  def __init__(self, net, sources, response, **settings):
    del net, settings
    has = lambda word: np.array([word in text for text in sources.texts])
    self._facts, self._joint = has(response.strip()), has("have the same")
    self.response = np.array([7], np.int32)

  def __call__(self, masks):
    some = (masks & self._facts).any(axis=1)
    stands = some & (masks | ~self._joint).all(axis=1)
    odds = np.where(stands, 3.0, -3.0)[:, None]
    return scoring.Scores(odds, odds)


def test_divergences_of_leaving_sentences_out(tmp_path):
  tokenizer = games.tokenizer()

  def apply(params, *, input_ids, attention_mask):
    hot = jax.nn.one_hot(input_ids, 300) * attention_mask[..., None]
    return types.SimpleNamespace(logits=0.1 * hot.cumsum(axis=1))

  net = types.SimpleNamespace(tokenizer=tokenizer, params={}, apply=apply)
  rows = games.given()[:2]
  path = tmp_path / "given.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  context_support.diverge(net, path)
  made = [json.loads(line) for line in path.read_text().splitlines()]
  row = made[0]
  texts = [text.strip() + "\n" for text in row["sentences"]]
  ids = lambda some: (
    tokenizer.encode("<|endoftext|>" + "".join(some) + row["query"]).ids
  )
  p = [
    special.softmax(0.1 * np.bincount(ids(some), minlength=300))
    for some in (texts, texts[1:])
  ]
  m = (p[0] + p[1]) / 2
  want = (special.rel_entr(p[0], m) + special.rel_entr(p[1], m)).sum() / 2
  # Of 300 terms in float32.
  np.testing.assert_allclose(row["divergence"][0], want, rtol=1e-3)
  first = path.read_text()
  context_support.diverge(net, path)  # They are there.
  assert path.read_text() == first
  config = context_support.Config((16,), ("jsd",), 2)
  *each, whole, _ = context_support.run(config, context_support.given(path))
  assert [row["forwards"] for row in each] == [row["n"] + 1 for row in made]
  assert whole["prompts"] == 2 and 0 < whole["average_precision"] <= 1


def test_own_prompts_are_recorded_once(tmp_path, monkeypatch):
  monkeypatch.setattr(context_support.scoring, "scorer", _Planted)
  net = types.SimpleNamespace(tokenizer=games.tokenizer())
  path = tmp_path / "own.jsonl"
  context_support.record(net, path, 2)
  first = path.read_text()
  context_support.record(net, path, 4)
  assert path.read_text().startswith(first)
  prompts = list(context_support.given(path))
  assert [prompt.kind for prompt in prompts] == [*context_support.OWN_KINDS]
  assert [len(prompt.sets) for prompt in prompts] == [0, 1, 0, 1]
  for prompt in prompts:
    rows = prompt.scorer(np.ones((1, 9), bool))
    assert rows.greedy().all()
