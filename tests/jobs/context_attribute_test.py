"""`spex context attribute`, and prompts of a file as a sweep, tiny."""

import json
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
from pyarrow import parquet

from spex_jax import settings, usage
from spex_jax.context import token_scores
from spex_jax.jobs import (
  context_attribute,
  context_dataset,
  context_names,
  sweeping,
)
from spex_jax.sweeps import state as sweep_state
from tests import command


def _run(capsys, *arguments):
  return command.done(capsys, "context", "attribute", *arguments)


def test_texts_to_both_forms(model, tmp_path, capsys):
  path = tmp_path / "out.json"
  asked = (
    f"--model={model}", "--prompt=the film", "--response= was fun",
    "--config.step_scores=probability,entropy", f"--output={path}",
  )  # fmt: skip
  out = _run(capsys, *asked)
  assert "method        saliency of probability" in out and "entropy" in out
  (found,) = token_scores.load(path)
  assert found.scores.shape == (len(found.response), len(found.source))
  assert "".join(found.response) == "ĠwasĠfun"
  _run(
    capsys, *asked, "--config.format=inseq", "--config.join=sum",
    "--config.normalise=true",
  )  # fmt: skip
  given = json.loads(path.read_text())
  assert given["__instance_type__"][1] == "FeatureAttributionOutput"
  # By Inseq's arguments.
  _run(
    capsys, "--model_name_or_path", model, "--input_texts", "the film",
    "--generated_texts", " was fun", "--save_path", str(path),
    "--attribution_method", "occlusion", "--attributed_fn", "logit",
    "--config.steps=0,1",
  )  # fmt: skip
  (found,) = token_scores.load(path)
  assert found.method == "occlusion" and found.steps == (0, 1)
  _same_again(capsys, path)
  known = {f"config.{name}" for name in settings.kinds(
    context_attribute.Attribute)}  # fmt: skip
  known |= {*settings.kinds(usage.contexts.ContextAttribute)}
  assert {*context_names.ATTRIBUTE.values()} <= known
  assert "usage: spex context attribute" in _run(capsys, "--help")


def test_letters_of_several_tokens_are_printed_whole(model, tmp_path, capsys):
  path = tmp_path / "out.json"
  for join in ("none", "sum"):
    out = _run(
      capsys, f"--model={model}", "--prompt=the fïlm", "--response= wäs it",
      f"--config.join={join}", f"--output={path}", "--config.method=attention",
    )  # fmt: skip
    assert "fïlm" in out and "Ã" not in out
  (found,) = token_scores.load(path)
  assert "Ã" in "".join(found.source)  # As the vocabulary spells it.
  _same_again(capsys, path)


def test_an_answer_ends_where_the_model_does(model, tmp_path, capsys):
  path = tmp_path / "out.json"
  asked = (f"--model={model}", f"--output={path}", "--config.method=attention")
  out = _run(capsys, *asked, "--prompt=" + "fun " * 44)
  (found,) = token_scores.load(path)
  count = 48 - len(found.source)
  assert 0 < len(found.response) == count < 32
  said = f"ends after {count} of --config.max_new_tokens=32: with its context"
  assert said in " ".join(out.split())
  words = ("attribute", *asked, "--prompt=" + "fun " * 47)
  line = command.refused(capsys, "context", *words)
  assert "no answer fits behind it. Shorten the context" in line


def _same_again(capsys, path):
  """Both snippets of a file give the same again."""
  body = json.loads(path.read_text())
  program, *words = shlex.split(body["again"]["shell"])
  assert program == "spex" and words[:2] == ["context", "attribute"]
  path.unlink()
  _run(capsys, *words[2:])
  assert json.loads(path.read_text()) == body
  names = {}
  exec(body["again"]["python"], names)
  del body["again"]
  assert json.loads(json.dumps(names["found"].to_dict())) == body


def test_ids_and_a_contrast(model, bare, tmp_path, capsys):
  path, ids = tmp_path / "out.json", tmp_path / "ids.json"
  ids.write_text(json.dumps({"prompt_ids": [1, 2, 3], "response_ids": [4]}))
  _run(
    capsys, f"--model={bare}", f"--ids={ids}", f"--output={path}",
    "--config.method=attention",
  )  # fmt: skip
  (found,) = token_scores.load(path)
  np.testing.assert_allclose(found.scores.sum(), 1, rtol=1e-5)
  _run(
    capsys, f"--model={model}", "--prompt=the film", "--response= was",
    "--config.contrast= was", "--config.target=contrast_prob_diff",
    f"--output={path}",
  )  # fmt: skip
  np.testing.assert_allclose(token_scores.load(path)[0].scores, 0, atol=1e-6)
  _same_again(capsys, path)


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ((), "Give --prompt"),
    (("--prompt=a", "--ids=b.json"), "Give --prompt"),
    (("--prompt=a", "--config.method=lrp"), "choose from saliency"),
    (("--prompt=a", "--config.target=loss"), "choose from logit"),
    (("--prompt=a", "--response="), "is empty"),
    (("--prompt= ",), "is empty"),
    (("--prompt=a", "--config.target=pcxmi"), "contrasts two generations"),
    (("--prompt=a", "--response= b", "--config.steps=9"), "outside"),
    (("--ids={ids}",), "must hold an object"),
  ],
)
def test_refused(words, said, model, tmp_path, capsys):
  ids = tmp_path / "ids.json"
  ids.write_text("{}")
  words = [word.format(ids=ids) for word in words]
  line = command.refused(
    capsys, "context", "attribute", f"--model={model}",
    f"--output={tmp_path / 'out.json'}", *words,
  )  # fmt: skip
  assert re.search(said, line), line


def _config(model, data, **changes):
  return settings.plain(
    {
      "build": "spex_jax.jobs.context_dataset:prompts",
      "model": model, "data": data, "rows": 2, "rows_per_shard": 1,
      "nan": "error", "retries": 0, "max_failed": 0.0, "max_new_tokens": 2,
      **changes,
    }
  )  # fmt: skip


def test_a_file_of_prompts(model, tmp_path):
  data = tmp_path / "prompts.jsonl"
  rows = [
    {"prompt": "the film", "response": " was fun"}, {"prompt": "the film was"},
  ]  # fmt: skip
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  config = _config(model, str(data))
  assert sweeping.classes(config) == context_dataset.classes_of()
  work = context_dataset.prompts(config)
  values = work.values(work.masks(0, 2))
  assert values.shape == (2, work.num_targets)
  again = work.values(work.masks(1, 2))
  np.testing.assert_array_equal(again[0], values[1])
  (asked,) = settings.read(
    {"model": model, "prompt": "the film", "response": " was fun",
     "step_scores": ("probability",), "output": str(tmp_path / "o.json")},
    context_attribute.Attribute,
  )  # fmt: skip
  want = context_attribute.run(asked, show=lambda line: None)
  most = len(want.response)
  got = context_dataset.unpacked(values[0], most)
  np.testing.assert_allclose(got.scores, want.scores, rtol=1e-6)
  assert got.response.tolist() == list(want.response_ids)
  np.testing.assert_allclose(
    got.step_scores, want.step_scores["probability"], rtol=1e-6
  )
  assert len(context_dataset.unpacked(values[1], most).response) <= 2


_KILLED = """
import os, signal, sys
from spex_jax import cli
from spex_jax.jobs import context_attribute
whole, asked = context_attribute.attributed, []

def killed(*given):
  asked.append(given)
  if len(asked) == 3:  # An anchor, the first row, and then the second one.
    os.kill(os.getpid(), signal.SIGKILL)
  return whole(*given)

context_attribute.attributed = killed
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_sweep_of_prompts_goes_on(model, tmp_path, capsys):
  data = tmp_path / "prompts.jsonl"
  rows = [{"prompt": "the film"}, {"prompt": "fun is the"}]
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  file = command.ROOT / "experiments" / "configs" / "sweep_attribute.py"
  words = lambda folder: [
    "sweep", "run", f"--config={file}:quick", f"--config.model={model}",
    f"--config.data={data}", "--config.rows=2", "--config.rows_per_shard=1",
    "--config.max_new_tokens=2", f"--workdir={tmp_path / folder}",
  ]  # fmt: skip
  done = subprocess.run(
    [sys.executable, "-c", _KILLED, *words("killed")], capture_output=True
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  state = sweep_state.status(str(tmp_path / "killed"))
  assert state.shards == 1 and not state.complete
  tables = []
  for folder in ("killed", "whole"):
    command.done(capsys, *words(folder))
    path = tmp_path / f"{folder}.parquet"
    export = ("sweep", "export", f"--workdir={tmp_path / folder}")
    assert command.run(capsys, *export, f"--output={path}")[0] == 0
    tables.append(parquet.read_table(path))
  assert len(tables[0]) == 2 and tables[0].equals(tables[1])


def test_files_that_are_no_prompts(model, tmp_path):
  path = tmp_path / "a.csv"
  path.write_text('prompt,response\n"the film, again"," was"\nfun,\n')
  assert context_dataset.read(str(path)) == [
    ("the film, again", " was"), ("fun", None),
  ]  # fmt: skip
  with pytest.raises(ValueError, match="the file has 2 rows"):
    context_dataset.prompts(_config(model, str(path), rows=3))
  for name, text, words in (
    ("b.jsonl", '{"text": "a"}', 'row 1, has no "prompt"'),
    ("b.jsonl", "{", "line 1, is no JSON"),
    ("b.csv", "text\na\n", 'has no "prompt"'),
    ("b.jsonl", "\n", "has no row"),
  ):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
      context_dataset.read(str(path))
  with pytest.raises(ValueError, match="data is missing"):
    context_dataset.read("")
