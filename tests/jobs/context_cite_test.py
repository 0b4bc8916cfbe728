"""`spex context cite`, on tiny models and an endpoint that is none."""

import json
import shlex

import numpy as np
import pytest

from spex_jax.jobs import context_cite
from tests import command
from tests.models import checkpoints


def _done(capsys, *arguments):
  return command.done(capsys, "context", *arguments)


@pytest.mark.parametrize("method", ["auto", "contextcite"])
def test_citations_of_a_file(method, model, sources, tmp_path, capsys):
  path = tmp_path / "cited.json"
  out = _done(
    capsys, "cite", f"--model={model}", f"--sources={sources}",
    "--query=fun is the", "--response= film fun", "--config.budget=8",
    f"--config.method={method}", f"--output={path}",
  )  # fmt: skip
  found = json.loads(path.read_text())
  assert len(found["values"]) == 3
  assert found["sets"] == [] or {"sources", "value", "kind"} <= {
    *found["sets"][0]
  }
  assert "r2" in found and found["spans"]
  assert found["forwards"] <= 8
  assert "\ncost " in out and "[2] film film fun." in out


def test_coarse_sources_a_proxy_a_shorter_prompt_and_all_again(
  model, sources, tmp_path, capsys
):
  path = tmp_path / "cited.json"
  out = _done(
    capsys, "cite", f"--model={model}", f"--sources={sources}",
    "--query=fun is the", "--response= film", "--config.budget=8",
    "--config.method=leave_one_out", "--config.level=sentence",
    "--config.coarse=document", f"--config.proxy={model}", "--config.keep=2",
    "--config.prune=1", f"--output={path}",
  )  # fmt: skip
  found = json.loads(path.read_text())
  assert found["method"] == "leave_one_out" and found["forwards"] == 4
  best = int(np.argmax(found["values"]))
  pruned = found["pruned"]
  assert pruned["sources"] == [best]
  assert pruned["text"] == found["sources"][best] + "\nfun is the"
  assert f"pruned to [{best}]:" in " ".join(out.split())
  names = {}
  exec(found["again"]["python"], names)
  assert names["found"].values.tolist() == found["values"]
  assert (names["text"], list(names["kept"])) == (pruned["text"], [best])
  program, *words = shlex.split(found["again"]["shell"])
  assert program == "spex" and words[:2] == ["context", "cite"]
  assert {"--config.prune=1", f"--sources={sources}"} <= {*words}
  path.unlink()
  _done(capsys, *words[1:])
  assert json.loads(path.read_text()) == found


def test_an_answer_ends_where_the_model_does(model, tmp_path, capsys):
  path, docs = tmp_path / "cited.json", tmp_path / "docs.jsonl"
  texts = ("fun " * 20, "film " * 14)
  docs.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
  out = _done(
    capsys, "cite", f"--model={model}", f"--sources={docs}", "--query=is",
    "--config.method=leave_one_out", f"--output={path}",
  )  # fmt: skip
  count = len(json.loads(path.read_text())["tokens"])
  assert 0 < count < 32
  assert f"the answer ends after {count} of" in " ".join(out.split())


class _Echo:
  """An endpoint whose tokens are the likelier the fewer stand before them."""

  def __init__(self, url, key):
    assert (url, key) == ("http://localhost/v1", "secret")
    self.url = url

  def post(self, path, body):
    assert path == "/completions" and body["model"] == "small"
    if "echo" not in body:
      return {"choices": [{"text": "x"}]}
    logs = [None, *(-float(k) for k in range(1, len(body["prompt"])))]
    return {"choices": [{"logprobs": {"token_logprobs": logs}}]}


def test_an_endpoint_in_the_place_of_a_model(
  model, sources, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(context_cite.services, "Service", _Echo)
  monkeypatch.setenv("OWN_KEY", "secret")
  path = tmp_path / "cited.json"
  words = (
    "cite", f"--model={model}", f"--sources={sources}", "--query=fun is the",
    "--config.endpoint=http://localhost/v1", "--config.endpoint_model=small",
    "--config.key_variable=OWN_KEY", "--config.budget=8", f"--output={path}",
    "--config.batch_size=3",
  )  # fmt: skip
  out = " ".join(_done(capsys, *words, "--response= film").split())
  assert "small at http://localhost/v1: it scores an answer" in out
  assert "no whole distributions (no jsd)" in out
  assert "an endpoint has no use for --config.batch_size" in out
  line = command.refused(capsys, "context", *words, "--response= a<|end|>")
  assert "response spells the special token" in line
  found = json.loads(path.read_text())
  assert found["criterion"] == "midpoint" and max(found["values"]) < 0
  assert "secret" not in path.read_text()
  names = {}
  exec(found["again"]["python"], names)
  assert names["found"].values.tolist() == found["values"]
  assert "give --response" in command.refused(capsys, "context", *words)
  line = command.refused(
    capsys, "context", *words, "--response= film", "--config.method=jsd"
  )
  assert "no whole distributions" in line

  def away(self, path, body):
    raise context_cite.services.Refused("status 401")

  monkeypatch.setattr(_Echo, "post", away)
  line = command.refused(capsys, "context", *words, "--response= film")
  assert "gives no log-probabilities" in line and "401" in line


@pytest.mark.parametrize("given", ["", "x", "-1", "1.5", "0.0", "nan"])
def test_what_prunes_nothing_is_named(given):
  with pytest.raises(ValueError, match="how many sources to keep, as in 3"):
    context_cite.Cite(prune=given)
  assert context_cite.context_asked.pruning("2") == {"keep": 2}
  assert context_cite.context_asked.pruning("1.0") == {"share": 1.0}


def test_a_threshold_of_answers_without_support(
  model, sources, tmp_path, capsys
):
  path, nulls = tmp_path / "cited.json", tmp_path / "nulls.jsonl"
  null = {"query": "fun is the", "response": " the"}
  nulls.write_text(json.dumps(null) + "\n")
  out = _done(
    capsys, "cite", f"--model={model}", f"--sources={sources}",
    "--query=fun is the", "--response= fun", "--config.budget=8",
    f"--config.nulls={nulls}", "--config.confidence=0.5",
    "--config.method=leave_one_out", f"--output={path}",
  )  # fmt: skip
  assert "of 1 sentence without support, at 50%" in " ".join(out.split())
  found = json.loads(path.read_text())
  values, threshold = np.array(found["values"]), found["threshold"]
  cited = found["spans"][0]["cited"]
  least = max(threshold, values.max() / 4)
  assert sorted(cited) == np.flatnonzero(values >= least).tolist()
  assert f"found.threshold = {threshold!r}\n" in found["again"]["python"]


def test_too_few_answers_without_support_cost_no_forward(
  model, sources, tmp_path, monkeypatch
):
  nulls = tmp_path / "nulls.jsonl"
  nulls.write_text(json.dumps({"query": "fun", "response": " the"}) + "\n")
  monkeypatch.delattr(context_cite, "cited")
  config = context_cite.Cite(
    model=model, sources=sources, query="fun is the", response=" fun",
    nulls=str(nulls), output=str(tmp_path / "cited.json"),
  )  # fmt: skip
  with pytest.raises(ValueError, match="1 sentences bound nothing.*takes 9"):
    context_cite.run(config)


@pytest.mark.slow
def test_citations_of_a_trained_model(tmp_path, capsys):
  model = checkpoints.shared("stories260k")
  path, docs = tmp_path / "cited.json", tmp_path / "docs.jsonl"
  texts = ("Tim has a red ball.", "Sam has a big dog.", "The sun is warm.")
  docs.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
  _done(
    capsys, "cite", f"--model={model}", f"--sources={docs}",
    "--query=Sam likes to play with his", "--response= dog",
    "--config.budget=8", "--config.method=exact", f"--output={path}",
  )  # fmt: skip
  found = json.loads(path.read_text())
  assert np.argmax(found["values"]) == 1
  np.testing.assert_allclose(sum(found["values"]), found["total"], atol=1e-6)


def test_sources_stand_each_with_a_line_break(model, sources):
  asked = {"model": model, "sources": sources, "query": "fun is the"}
  asked |= {"response": " film", "budget": 8}
  config = context_cite.Cite(**asked)
  net = context_cite.context_asked.load(config)
  texts = context_cite.texts_of(sources)
  found = context_cite.cited(config, net, texts)
  assert found.sources.prompt.text == "\n".join([*texts, "fun is the"])
  config = context_cite.Cite(**asked, separator=" ")
  found = context_cite.cited(config, net, texts)
  assert found.sources.prompt.text == " ".join([*texts, "fun is the"])
