"""The toy translation: its truth, and that all of it runs."""

import re
import types

import jax
import numpy as np
import pytest

from experiments import pecore_translation as study
from spex_jax.models import hub
from tests.jobs import small
from third_party import pecore_pairs


def test_the_pronoun_is_told_by_the_nouns_alone():
  rng = np.random.default_rng(0)
  for _ in range(50):
    pair = study.made(rng)
    context = pair.given["encoder_with"][slice(*pair.given["context_span"])]
    genders = {
      at: gender
      for at, word in enumerate(context)
      for gender, nouns in enumerate(study._NOUNS)
      if word in nouns
    }
    (step,) = pair.sensitive
    assert tuple(genders) == pair.cues and len(pair.cues) in (1, 2)
    (gender,) = set(genders.values())
    assert pair.given["decoder"][step] == study._PRONOUNS[gender]
    rest = pair.given["encoder_with"][len(context) + 1 :]
    assert rest == pair.given["encoder_without"]


def test_f1_by_hand():
  # In: 2 of 2 + 1; not in: 2 of 1 + 2.
  assert study.f1((0, 1), (0,), 3) == pytest.approx((2 / 3 + 2 / 3) / 2)
  assert study.f1((), (0,), 2) == pytest.approx((0 + 2 / 3) / 2)


def test_pairs_of_tagged_texts():
  known = re.compile(r"<brk>|</s>|\w+|[.]")
  words = known.findall("<brk> </s> The old cow fled . It ran Elle il court")

  def tokenize(text):
    parts = [*known.findall(text), "</s>"]
    pieces = [p if p in ("<brk>", "</s>", ".") else f"\u2581{p}" for p in parts]
    return [words.index(part) for part in parts], pieces

  example = {
    "source_context_tagged": "The <hon>old cow<hoff> fled.",
    "source_current": "It ran.",
    "gold_target_current_tagged": "<p>Elle</p> court.",
    "generated_target_current": "Elle court.",
  }
  found = pecore_pairs.pair(example, tokenize, tokenize)
  assert found == {
    "encoder_with": [2, 3, 4, 5, 6, 0, 7, 8, 6, 1],
    "encoder_without": [7, 8, 6, 1],
    "decoder": [9, 11, 6], "context_span": [0, 5],
    "sensitive": [0], "cues": [1, 2],
  }  # fmt: skip
  wrong = example | {"generated_target_current": "il court."}
  assert "another word" in pecore_pairs.pair(wrong, tokenize, tokenize)
  assert pecore_pairs.touched(["x"], "y", [(0, 1)]) is None


class _Words:
  """A tokenizer of words, each with its space; `letters` of letters."""

  def __init__(self, letters=False):
    self.pattern = "." if letters else r" ?\w+|[^\w\s]"
    self.known = {}

  def encode(self, text, add_special):
    assert not add_special
    found = re.findall(self.pattern, text)
    ids = [self.known.setdefault(word, len(self.known)) for word in found]
    return types.SimpleNamespace(ids=np.array(ids))


def test_pairs_of_retrieval_know_their_truth():
  words = _Words()
  net = types.SimpleNamespace(tokenizer=words)
  names = lambda ids: [list(words.known)[i] for i in ids]
  pairs = study.retrieved(net, 5)
  assert len(pairs) == 5
  for pair in pairs:
    given = pair.given
    first, last = given["context_span"]
    context = given["with_context"][first:last]
    left = given["with_context"][:first] + given["with_context"][last:]
    assert left == given["without_context"]
    (cue,), (at,) = pair.cues, pair.sensitive
    # The place behind "in the", which the response begins with.
    assert names(context[cue - 2 : cue]) == [" in", " the"]
    assert given["response_ids"][at] == context[cue]
    assert names(context)[-1] == "." and names(context).count(".") == 2
    size = len(given["response_ids"])
    assert left[-size:] == given["response_ids"]
    assert names(left[:-size])[-2:] == [" in", " the"]
  with pytest.raises(ValueError, match="single token"):
    study.retrieved(types.SimpleNamespace(tokenizer=_Words(letters=True)), 1)


@pytest.mark.slow
def test_every_metric_and_method_has_a_row():
  found = list(study.run(study.CONFIGS["quick"], {}))
  names = [(row["step"], row.get("name")) for row in found]
  assert names[0] == ("model", None)
  known = {"cti": {*study.METRICS, "random"}, "cci": {*study.METHODS, "random"}}
  for step, wanted in known.items():
    assert {name for each, name in names if each == step} == wanted
  sets = [row for row in found if row["step"] == "sets"]
  asked = {"auto", "exact"}  # Absent words are taken out, or unknown tokens.
  asked |= {f"{name}, unknown" for name in asked}
  assert {row["name"] for row in sets} == asked
  assert all(row["kind"] == "two nouns" for row in sets)
  rest = [row for row in found[1:] if row["step"] != "sets"]
  assert all(0 <= row["average_precision"] <= 1 for row in rest)


@pytest.mark.slow
def test_pairs_of_a_causal_model_are_judged_without_all_masks(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(study, "METHODS", {"occlusion": 64, "exact": 256})
  net = hub.load(small.gpt2(tmp_path / "lm"))
  context, rest = list(range(1, 11)), [3, 5, 7]
  given = {
    "with_context": context + rest, "without_context": rest,
    "response_ids": rest[-1:], "context_span": (0, len(context)),
  }  # fmt: skip
  found = list(
    study.judged(net, [study.Pair(given, (0,), (4,))], jax.random.key(0))
  )
  names = {row["name"] for row in found if row["step"] == "cci"}
  assert names == {"occlusion", "random"}
  assert {row["name"] for row in found if row["step"] == "cti"} > {"random"}
