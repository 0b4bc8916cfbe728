"""Models, texts and pairs of prompts, for all commands."""

import csv
import json

import pytest

from tests.jobs import small
from tests.models import checkpoints

_ROWS = [
  ("the film is great", "good"),
  ("great fun and never boring", "good"),
  ("boring . boring . boring", "bad"),
  ("mr film is never fun", "bad"),
  ('"fun and fun"', "good"),
  ("the film is tacky", "bad"),
]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
  """A GPT-2 with a tokenizer."""
  return str(small.gpt2(tmp_path_factory.mktemp("gpt2"), n_layer=1))


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
  """One without."""
  folder = tmp_path_factory.mktemp("bare") / "model"
  return str(checkpoints.make(folder, checkpoints.GPT2)[0])


@pytest.fixture(scope="session")
def made(tmp_path_factory):
  """Checkpoints of classifiers, an embedding and a language model, a CSV."""
  root = tmp_path_factory.mktemp("models")
  with (root / "rows.csv").open("w", newline="") as file:
    csv.writer(file).writerows([("text", "label"), *_ROWS])
  small.bert(root / "classifier")
  small.bert(root / "embedding", labels=())
  small.bert(root / "single", labels=("score",))
  small.gpt2(root / "lm")
  return root


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
  path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
  path.write_text("\n".join(map(json.dumps, small.PAIRS)))
  return str(path)


@pytest.fixture
def sources(tmp_path):
  path = tmp_path / "docs.jsonl"
  texts = ("fun is the film.", "the film is fun.", "film film fun.")
  path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
  return str(path)
