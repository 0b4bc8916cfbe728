"""`spex context`: every name that outside checks use, on tiny models."""

import dataclasses
import itertools
import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from spex_jax import configs, usage
from spex_jax.context import inseq
from spex_jax.jobs import context as context_job
from spex_jax.jobs import context_names
from spex_jax.models import t5
from spex_jax.report import clock
from tests import command
from tests.models import checkpoints, t5_test

# Context 1..4 of six tokens before a response of three.
_CAUSAL = {
  "with_context": [1, 2, 3, 4, 5, 6, 7, 8, 9],
  "without_context": [1, 5, 6, 7, 8, 9],
  "response_ids": [7, 8, 9],
  "context_span": [1, 4],
}
_PAIR = {
  "encoder_with": [3, 4, 5, 6, 1],
  "encoder_without": [6, 1],
  "decoder": [0, 5, 7, 2],
  "context_span": [0, 3],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """A T5 without a tokenizer."""
  net = t5.network(t5_test._RELU)
  params = checkpoints.random_params(net)
  tensors = t5_test.tensors_of(net.config, params)
  folder = tmp_path_factory.mktemp("pair") / "model"
  return str(checkpoints.save(folder, t5_test.HUB, tensors))


@pytest.fixture
def ids(tmp_path):
  def write(given):
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(given))
    return str(path)

  return write


def _done(capsys, *arguments):
  return command.done(capsys, "context", *arguments)


@pytest.mark.parametrize("kind", ["causal", "pair"])
@pytest.mark.parametrize("sensitivity", ["kl_divergence", "pcxmi"])
def test_ids_to_inseqs_structure(
  kind, sensitivity, bare, pair, ids, tmp_path, capsys
):
  given, own = (_CAUSAL, bare) if kind == "causal" else (_PAIR, pair)
  path = tmp_path / "out.json"
  out = _done(
    capsys, f"--model={own}", f"--ids={ids(given)}", f"--output={path}",
    "--config.format=inseq", f"--config.sensitivity={sensitivity}",
    "--config.targets=all",
  )  # fmt: skip
  assert "no citations: --ids have no sentences" in " ".join(out.split())
  found = inseq.read(path)
  assert np.shape(found["cti_scores"]) == (3,)
  assert len(found["input_context_tokens"]) == 3
  assert [cue["cti_idx"] for cue in found["cci_scores"]] == [0, 1, 2]
  scores = [cue["input_context_scores"] for cue in found["cci_scores"]]
  assert np.shape(scores) == (3, 3)
  assert np.ptp(scores) > 0
  if sensitivity == "kl_divergence":
    assert min(found["cti_scores"]) >= 0


@pytest.mark.parametrize(
  ("attribution", "target"),
  [
    ("saliency", "kl_divergence"), ("input_x_gradient", "contrast_prob_diff"),
    ("occlusion", "kl_divergence"), ("attention", "contrast_prob_diff"),
  ],
)  # fmt: skip
def test_methods_by_inseqs_names(
  attribution, target, bare, ids, tmp_path, capsys
):
  path = tmp_path / "out.json"
  _done(
    capsys, f"--model={bare}", f"--ids={ids(_CAUSAL)}", f"--output={path}",
    "--config.format=inseq", f"--config.attribution={attribution}",
    f"--config.target={target}", "--config.targets=0,2",
  )  # fmt: skip
  cues = inseq.read(path)["cci_scores"]
  assert [cue["cti_idx"] for cue in cues] == [0, 2]
  scores = np.array([cue["input_context_scores"] for cue in cues])
  assert (scores >= 0).all() and scores.any()


def test_sets_of_a_context_that_says_a_token_twice(bare, ids, tmp_path, capsys):
  path, twice = tmp_path / "out.json", _CAUSAL["with_context"].copy()
  twice[3] = twice[1]
  given = ids(_CAUSAL | {"with_context": twice})
  _done(
    capsys, f"--model={bare}", f"--ids={given}",
    "--config.format=inseq", "--config.attribution=exact",
    "--config.target=in_context_pvi", "--config.targets=1", "--config.masks=8",
    f"--output={path}",
  )  # fmt: skip
  (cue,) = inseq.read(path)["cci_scores"]
  assert len(cue["input_context_scores"]) == 3
  assert np.ptp(cue["input_context_scores"]) > 0


_TEXTS = ("--context=the film is fun. Fun is the film.", "--query=fun is the")


def test_texts_cues_and_citations(model, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  words = (
    f"--model={model}", *_TEXTS, "--response= film fun",
    "--config.targets=all", "--config.budget=8", "--output=one.json",
  )  # fmt: skip
  out = _done(capsys, *words)
  for fact in ("metric", "cues", "cost", "total", "again", "wrote"):
    assert f"\n{fact} " in out
  assert "the sets sum to it, which all subsets show" in " ".join(out.split())
  found = json.loads((tmp_path / "one.json").read_text())
  assert len(found["sensitivity"]) == len(found["response"]) == 2
  cited = found["citations"]
  assert len(cited["values"]) == len(cited["sources"]) == 2
  assert {"sets", "r2", "spans"} <= {*cited}

  # Both snippets give the same again.
  program, word, *rest = shlex.split(found["again"]["shell"])
  assert (program, word) == ("spex", "context")
  _done(capsys, *rest)
  again = json.loads((tmp_path / "one.json").read_text())
  for body in (again, found):
    del body["sha256"]
  assert again == found
  names = {}
  exec(found["again"]["python"], names)
  np.testing.assert_array_equal(
    names["found"].sensitivity, found["sensitivity"]
  )
  for cue, kept in zip(names["found"].cues, found["cues"], strict=True):
    assert list(cue.scores) == kept["scores"]
  assert json.loads(json.dumps(names["cited"].to_dict())) == cited


def test_inseqs_arguments_mean_the_same(model, tmp_path, capsys):
  common = ("--config.format=inseq",)
  ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
  _done(
    capsys, f"--model={model}", *_TEXTS, "--response= film fun", *common,
    "--config.sensitivity=pcxmi", "--config.attribution=occlusion",
    f"--output={ours}",
  )  # fmt: skip
  _done(
    capsys, "--model_name_or_path", model, "--input_context_text",
    _TEXTS[0].partition("=")[2], "--input_current_text=fun is the",
    "--output_current_text", "film fun", *common,
    "--context_sensitivity_metric", "pcxmi", "--attribution_method",
    "occlusion", "--save_path", str(theirs),
  )  # fmt: skip
  assert inseq.read(ours) == inseq.read(theirs)


def test_a_separator_stands_where_neither_side_has_it(model):
  given = {"model": model, "context": "fun film", "query": "is"}
  given |= {"output_context": "fun", "response": "the", "separator": " "}
  config = context_job.Context(**given)
  net = context_job.context_asked.load(config)
  spelt = lambda config: net.tokenizer.decode(
    context_job.runs_of(config, net).with_context
  )
  assert spelt(config) == "fun film is fun the"
  again = dataclasses.replace(config, response=" the")
  assert spelt(again) == "fun film is fun the"
  bare = dataclasses.replace(config, separator="")
  assert spelt(bare) == "fun film isfunthe"
  notes = []
  for each in (config, bare):
    runs = context_job.runs_of(each, net)
    context_job._note_joined(net, runs, clock.Session(notes.append))
  (note,) = notes
  assert "'t' directly behind 'fun'" in note
  words = ["--output_current_text=a", "--decoder_input_output_separator", "\n"]
  assert context_names.of_inseq(words) == [
    "--config.separator= ", "--response=a", "--config.separator=\n"
  ]  # fmt: skip


def test_without_sources_the_prompt_is_that_without_context(model, monkeypatch):
  given = {"model": model, "query": "the fun", "response": " is"}
  net = context_job.context_asked.load(context_job.Context(**given))
  for text, template in itertools.product(
    ("fun is. The film.\n", "\n a film", "我们。"),
    ("{context} {current}", "{context}\n\n{current}", "{current}\n {context}",
     "Read: {context} \nQ: {current}\nA:"),
  ):  # fmt: skip
    config = context_job.Context(**given, context=text, template=template)
    prompt = context_job.sources_of(config, net).prompt
    runs = context_job.runs_of(config, net)
    kept = prompt.encoding.ids[prompt.players.owner == prompt.n]
    want = runs.without_context[: -len(runs.response)]
    assert kept.tolist() == want.tolist(), (text, template)
  notes = []
  said = clock.Session(notes.append)
  monkeypatch.setattr(context_job.citing, "cite", lambda *_, **given: given)
  for contextless in (None, "{current}"):
    config = dataclasses.replace(config, contextless=contextless)
    assert context_job._cited(config, net, None, runs, said)["budget"] == 64
  assert len(notes) == 1 and "not `contextless`" in notes[0]


def test_the_id_of_an_occluded_token(bare, ids, tmp_path, capsys):
  found = []
  for unknown in (0, 5):
    path = tmp_path / "out.json"
    _done(
      capsys, f"--model={bare}", f"--ids={ids(_CAUSAL)}", f"--output={path}",
      "--config.attribution=occlusion", "--config.targets=all",
      f"--config.unknown={unknown}",
    )  # fmt: skip
    found.append(json.loads(path.read_text())["cues"][0]["scores"])
  assert found[0] != found[1]


# Four sentences.
_LONGER = (
  "--model={model}", "--context=the film. Is fun. The fun. A film.",
  "--query=fun is the", "--response= film",
)  # fmt: skip


def test_citations_that_fail_late_lose_no_cues(
  model, tmp_path, capsys, monkeypatch
):
  def failing(*_, **given):
    raise ValueError("Too much memory.")

  monkeypatch.setattr(context_job.citing, "cite", failing)
  path = tmp_path / "out.json"
  out = _done(
    capsys, f"--model={model}", *_TEXTS, "--response= film fun",
    f"--output={path}",
  )  # fmt: skip
  assert "no citations: Too much memory." in " ".join(out.split())
  found = json.loads(path.read_text())
  assert found["citations"] is None and len(found["sensitivity"]) == 2


@pytest.mark.parametrize(
  "words, said",
  [
    (("--context=fun",), "--model is missing"),
    (("--model={model}",), "--context is missing"),
    (("--model={model}", "--context=  ", "--query=fun"), "context is empty"),
    (
      ("--model={model}", "--context=fun", "--query=fun",
       "--config.template={{current}}"),
      "placeholder {context} 0 times",
    ),
    (
      ("--model={model}", "--context=fun", "--query=fun", "--response="),
      "response is empty",
    ),
    (
      ("--model={model}", "--context=fun", "--query=fun is the f",
       "--response=un"),
      "would join",
    ),
    (
      ("--model={model}", "--context=" + "fun " * 60, "--query=fun"),
      "the model takes",
    ),
    (
      ("--model={model}", "--context=fun <|end|>", "--query=fun"),
      "special token",
    ),
    (("--model={model}", "--ids={ids}", "--query=fun"), "in place of"),
    (
      ("--model={model}", "--ids={ids}", "--response=a", "--config.chat",
       "--config.output_context=b"),
      "leave out --response, --config.output_context, --config.chat",
    ),
    (("--model={bare}", "--ids={huge}"), "id 4294967296 is above int32"),
    (("--model={bare}", "--ids={number}"), "with_context must be at least one"),
    (("--model={pair}", "--ids={decoder}"), "decoder must be at least one"),
    (
      ("cite", "--model=", "--config.coarse=document"),
      "coarse and --config.proxy are of --config.method=leave_one_out",
    ),
    *(
      ((*_LONGER, f"--config.budget={budget}", f"--config.method={method}"),
       said)
      for budget, method, said in (
        (7, "auto", "masks do not fit"), (8, "exact", "masks do not fit"),
        (3, "jsd", "budget is 3. Raise it.$"),
        (3, "leave_one_out", "--config.coarse or --config.proxy"),
      )
    ),
    (("--model={model}", "--ids=missing.json"), "there is no such file"),
    (("--model={model}", "--ids={ids}"), "span .* outside"),
    (("--model={bare}", "--context=fun", "--query=fun"), "no tokenizer"),
    (
      ("--model={model}", "--context=fun", "--config.targets=x"),
      "choose selected, all, or numbers",
    ),
    (
      ("--model={model}", "--context=fun", "--config.sensitivity=pcxm"),
      "Did you mean pcxmi",
    ),
    (("cite", "--model={model}"), "--sources is missing"),
    (("cite", "--model={model}", "--sources={ids}"), "is no JSON|\"text\""),
    (
      ("cite", "--model={model}", "--sources={docs}", "--query= ",
       "--response= fun"),
      "query is empty",
    ),
    (
      ("cite", "--model={model}", "--sources={docs}", "--query=fun",
       "--response="),
      "no tokens",
    ),
    (
      ("cite", "--model={model}", "--sources={docs}", "--query=fun is the f",
       "--response=un"),
      "join",
    ),
    (
      ("cite", "--model={model}", "--sources={docs}", "--query=fun",
       "--response= fun <|end|>"),
      "response spells the special token",
    ),
    *(
      (("cite", "--model={model}", f"--sources={{{name}}}", "--query=fun",
        "--response= fun"), said)
      for name, said in {
        "long": "the model takes", "none": "context is empty",
        "blank": "document 1 is empty",
        "special": "document 0 spells the special token",
      }.items()
    ),
    (
      ("cite", "--model={model}", "--sources={docs}", "--query=fun",
       "--response= fun", "--config.nulls={docs}"),
      "\"query\" and a \"response\" is needed",
    ),
  ],
)  # fmt: skip
def test_bad_input_is_one_line(
  words, said, model, bare, pair, sources, ids, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  outside = _CAUSAL | {"context_span": [1, 40]}
  places = {"model": model, "bare": bare, "docs": sources, "ids": ids(outside)}
  places["pair"] = pair
  for name, given in {
    "huge": _CAUSAL | {"with_context": [1, 2, 3, 4, 5, 1 << 32, 7, 8, 9]},
    "number": _CAUSAL | {"with_context": 5}, "decoder": _PAIR | {"decoder": 7},
  }.items():  # fmt: skip
    places[name] = str(tmp_path / f"{name}.json")
    pathlib.Path(places[name]).write_text(json.dumps(given))
  # Before what takes long.
  monkeypatch.delattr(context_job.reliance, "pecore")
  for name, texts in {
    "long": ["fun " * 60], "none": [], "blank": ["fun", " "],
    "special": ["fun <|end|>"],
  }.items():  # fmt: skip
    places[name] = str(tmp_path / f"{name}.jsonl")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    pathlib.Path(places[name]).write_text(lines)
  line = command.refused(
    capsys, "context", *(word.format(**places) for word in words)
  )
  assert re.search(said, line, re.IGNORECASE), line


def test_help_and_configurations(capsys):
  assert list(configs.named("context")) == ["context"]
  for word in ("attribute", "cite"):
    assert list(configs.named(f"context_{word}")) == [f"context_{word}"]
  for words in ((), ("cite",)):
    out = _done(capsys, *words, "--help")
    assert "usage: spex context" in out and "method='auto'" in out


@pytest.mark.parametrize(
  "words, want",
  [
    (("-o", "f.json", "-m=gpt2"), ["--output=f.json", "--model=gpt2"]),
    (("-a", "lime", "-fn=pcxmi", "-bs", "2"),
     ["--config.attribution=lime", "--config.target=pcxmi",
      "--config.batch_size=2"]),
    (("--output_template={current}", "--query=a"), ["--query=a"]),
    (("--special_tokens_to_keep", "<brk>", "<x>", "-o=f"), ["--output=f"]),
    (("--output_template", "{context} {current}", "--output_context_text=a"),
     ["--config.separator= ", "--config.output_context=a"]),
  ],
)  # fmt: skip
def test_more_of_inseqs_arguments(words, want):
  assert context_names.of_inseq(words) == want
  assert context_names.of_inseq(words, "cite") == [*words]


@pytest.mark.parametrize(
  "words, said",
  [
    (("--output_template", "<a>{current}"), "='<a>{current}' of Inseq's"),
    (("--output_template={context} {current}",), "give --output_context_text"),
    (("--viz_path=f.html",), "`spex report DIR` makes the page"),
    (("--contextless_output_next_tokens", "a"), "the run without context"),
  ],
)  # fmt: skip
def test_inseqs_arguments_without_an_equal_say_what_to_use(words, said):
  with pytest.raises(ValueError, match=re.escape(said)):
    context_names.of_inseq(words)


def test_every_argument_of_inseqs_has_a_setting():
  ours = {f"config.{name}" for name in context_job.settings.kinds(
    context_job.Context)}  # fmt: skip
  flags = {*context_job.settings.kinds(usage.contexts.Context)}
  assert {*context_names.CONTEXT.values()} <= ours | flags
