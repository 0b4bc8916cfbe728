"""A model and pairs of prompts, for the commands of circuits."""

import json

import pytest

from tests.jobs import small


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return str(small.gpt2(tmp_path_factory.mktemp("gpt2"), n_layer=1))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
  path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
  path.write_text("\n".join(map(json.dumps, small.PAIRS)))
  return str(path)
