"""Templates of tasks, for a tokenizer whose tokens are whole words."""

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from spex_jax.circuits import tasks
from spex_jax.models import tokens
from tests import tokenizers_small

_KEY = jax.random.key(0)


def _words(but=()):
  """A token for every word of the templates, with its space; without some."""
  cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
  vocab = {"<unk>": 0}
  rng = np.random.default_rng(0)
  for makers in tasks.TASKS.values():
    for make in makers * 200:
      row = make(rng)
      answers = [*row.right, *row.wrong]
      for parts in (row.clean, {**row.clean, **row.corrupted}):
        text = row.template.format(**parts)
        for piece, _ in cut.pre_tokenize_str(text + "".join(answers)):
          vocab.setdefault(piece, len(vocab))
  vocab = {p: i for p, i in vocab.items() if p not in but}
  backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
  backend.pre_tokenizer = cut
  backend.decoder = decoders.ByteLevel()
  return tokens.Tokenizer(backend, {"unk": 0})


_TOKENIZER = _words()


@pytest.mark.parametrize(
  "task", [t for t in tasks.TASKS if t != "greater-than"]
)
def test_pairs_of_words(task):
  made = tasks.make(task, _TOKENIZER, 12, _KEY)
  pairs = made.pairs
  assert len(pairs) == 12
  assert len({*pairs.texts}) == 12
  spelt = lambda ids: [_TOKENIZER.token(i) for i in ids if i >= 0]
  for row, (clean, corrupted) in enumerate(pairs.texts):
    right, wrong = spelt(pairs.right[row]), spelt(pairs.wrong[row])
    assert right
    assert wrong
    assert not {*right} & {*wrong}
    assert clean != corrupted
    # What decides the answer is all that differs.
    a, b = pairs.clean[row], pairs.corrupted[row]
    assert 1 <= (a != b).sum() <= 2
    end = pairs.spans.names.index("end")
    assert pairs.spans.owner[row, pairs.lengths[row] - 1] == end
  again = tasks.make(task, _TOKENIZER, 12, _KEY).pairs
  assert again.texts == pairs.texts
  other = tasks.make(task, _TOKENIZER, 12, jax.random.key(1)).pairs
  assert other.texts != pairs.texts


def test_the_rules_of_tasks():
  """What is right, read off the texts."""
  rng = np.random.default_rng(0)
  for _ in range(50):
    row = tasks.TASKS["ioi"][0](rng)
    names = [row.clean[n] for n in ("first", "second")]
    names.remove(row.clean["giver"])  # One of them gives, and is wrong.
    assert row.right == [f" {names[0]}"]
    assert row.corrupted["giver"] not in (*names, row.clean["giver"])
    for make in tasks.TASKS["greater-than"]:
      row = make(rng)
      year = row.clean["year"]
      size = len(row.right[0])
      assert all(int(x) > int(year[:size]) for x in row.right)
      assert all(int(x) <= int(year[:size]) for x in row.wrong)
    row = tasks.TASKS["docstring"][0](rng)
    assert row.right == [f" {row.clean['third']}"]
    row = tasks.TASKS["induction"][0](rng)
    said = row.template.format(**row.clean).split()[1:]
    last = said[-1]
    assert row.right == [f" {said[said.index(last) + 1]}"]


def test_spans_are_the_parts_of_the_template():
  pairs = tasks.make("agreement", _TOKENIZER, 6, _KEY).pairs
  for row, (clean, _) in enumerate(pairs.texts):
    (where,) = np.flatnonzero(
      pairs.spans.owner[row] == pairs.spans.names.index("noun")
    )
    noun = _TOKENIZER.decode([pairs.clean[row, where]]).strip()
    assert noun in clean
    assert noun.rstrip("s") in {a for a, _ in tasks._NOUNS}


def test_a_start_stands_in_front():
  made = tasks.make("gender", _TOKENIZER, 3, _KEY, start="The")
  assert all(text.startswith("The") for text, _ in made.pairs.texts)


def test_what_does_not_fit_is_counted():
  few = _words(but=("ĠParis", "ĠRome", "ĠOslo"))
  made = tasks.make("capital", few, 20, _KEY)
  reason = "with an answer that is not one token"
  assert made.rejected[reason] > 0
  assert f"{made.rejected[reason]} {reason}" in str(made)
  with pytest.raises(ValueError, match=r"0 of 4 pairs .* not one token"):
    tasks.make("greater-than", _TOKENIZER, 4, _KEY)
  letters = tokens.Tokenizer(tokenizers_small.byte_level(), {})
  with pytest.raises(ValueError, match=r"of 4 pairs .* of unequal length"):
    tasks.make("capital", letters, 4, _KEY)


@pytest.mark.parametrize(("task", "num"), [("chess", 3), ("ioi", 0)])
def test_bad_wishes(task, num):
  with pytest.raises(ValueError, match="No task 'chess'; they are|at least 1"):
    tasks.make(task, _TOKENIZER, num, _KEY)
