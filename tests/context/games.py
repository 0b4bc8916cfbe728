"""Scorers for tests: recorded games, and tables of values."""

import json
import pathlib

import numpy as np
import pytest

from spex_jax.context import scoring, sources
from spex_jax.models import tokens
from tests import tokenizers_small

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def given():
  """The recorded games of `shared/context`; skips where they are absent."""
  for parent in (_ROOT, *_ROOT.parents):
    path = parent.parent / "shared" / "context" / "given.jsonl"
    if path.exists():
      return [json.loads(line) for line in path.read_text().splitlines()]
  pytest.skip("no shared/context/given.jsonl beside the repository")


def masks(n):
  """Every mask of n sources, bool `[2^n, n]`, row b by the bits of b."""
  return (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)


def tokenizer():
  """GPT-2's kind, of some 270 tokens."""
  return tokens.Tokenizer(tokenizers_small.byte_level(), {})


class Table:
  """A scorer of one token from tables of every mask; counts what it is asked.

  Attributes:
    asked: distinct masks so far.
  """

  def __init__(self, log_odds, stands, pieces=("x",)):
    n = int(np.log2(len(log_odds)))
    self.sources = sources.of_ids([[i] for i in range(n)], [0], tokenizer())
    self.response = np.zeros(len(pieces), np.int32)
    self.pieces = pieces
    odds = np.asarray(log_odds, float).reshape(len(log_odds), -1)
    self._tables = (
      odds,
      np.broadcast_to(np.where(stands, 1.0, -1.0)[:, None], odds.shape),
    )
    self.asked = set()

  def __call__(self, masks):
    rows = masks @ (1 << np.arange(masks.shape[1]))
    self.asked |= set(rows.tolist())
    return scoring.Scores(*(table[rows] for table in self._tables))


class Rule(Table):
  """The same of any number of sources, from functions of masks to `[B]`."""

  def __init__(self, n, log_odds, stands):
    super().__init__(np.zeros(2), np.zeros(2))
    self.sources = sources.of_ids([[i] for i in range(n)], [0], tokenizer())
    self._rules = (log_odds, lambda masks: np.where(stands(masks), 1.0, -1.0))

  def __call__(self, masks):
    self.asked |= {mask.tobytes() for mask in masks}
    return scoring.Scores(*(rule(masks)[:, None] for rule in self._rules))


def game(row):
  """A recorded game of `given` as a scorer."""
  order = np.argsort(row["masks"])
  odds = np.array(row["logit"])[order]
  stands = np.array(row["greedy"])[order] == row["answer_id"]
  return Table(odds, stands)
