"""Texts on the command: values against forwards on the same tokens by hand."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from sklearn import linear_model

from spex_jax import cli, models
from spex_jax.ablate import gradients
from spex_jax.fourier import sparse
from spex_jax.jobs import explain, language, networks, report, sentiment
from spex_jax.models import embedding, sites
from spex_jax.training import checkpoint, heads
from tests import command
from tests.models import checkpoints

_REVIEW = "the film is never boring and great fun !"
_TOLERANCE = 1e-5  # float32 of one tiny block, in two orders of summation.


@pytest.fixture(scope="module")
def spoken(made):
  """The language model's tokenizer, and logits `[P, V]` of token ids."""
  net = checkpoints.Compiled(models.load(made / "lm"))
  return net.tokenizer, net.logits


def _config(name, folder, **changes):
  changes = {"model": str(folder), **changes}
  return cli.load_config(f"{name}:quick", changes=changes)


def _masks(n, count=4):
  masks = np.random.default_rng(0).random((count, n)) < 0.5
  masks[0] = True
  masks[1] = False
  return masks


def _files(workdir):
  for name in ("explanation.json", "fourier.json", "figure.png"):
    assert (workdir / name).stat().st_size > 100
  return json.loads((workdir / "explanation.json").read_text())


def test_a_classifier_on_the_command(made, tmp_path, capsys):
  out = command.done(
    capsys, "explain", "--config=sentiment:quick",
    f"--config.model={made / 'classifier'}",
    "--config.text=film is never boring", "--config.method=exact",
    f"--workdir={tmp_path}",
  )  # fmt: skip
  assert _files(tmp_path)["names"] == ["film", "is", "never", "boring"]
  for word in ("M parameters, float32", "probability", "one [MASK]", "above"):
    assert word in out, out
  (text,) = [line for line in out.splitlines() if line.startswith("text ")]
  # No terminal: no colour, and values in brackets behind what is strong.
  assert re.search(r"\[[+-][0-9.e-]+\]", text) and "\x1b" not in out


@pytest.mark.slow
def test_a_classifier_s_values_are_its_own(made, tmp_path):
  config = _config(
    "sentiment", made / "classifier", text=_REVIEW, target="fine",
    absent="mask",
  )  # fmt: skip
  asked = sentiment.subject(config, tmp_path)
  masks = _masks(9)
  net = models.load(made / "classifier")
  apply = jax.jit(net.apply)
  for mask, got in zip(masks, asked.evaluator(masks)):
    words = [w if k else "[MASK]" for w, k in zip(_REVIEW.split(), mask)]
    ids = net.tokenizer.encode(" ".join(words)).ids
    logits = np.asarray(apply(net.params, input_ids=ids[None]).logits[0])
    expected = logits[1] - max(logits[0], logits[2])
    assert got == pytest.approx(expected, abs=_TOLERANCE)


@pytest.mark.parametrize("readout", ["margin", "logit", "log_probability"])
def test_what_is_read_of_a_class(readout):
  logits = np.array([0.5, -1.0, 2.0, 0.25])
  config = _config("sentiment", "", readout=readout, target="2")
  names = ("a", "b", "c", "d")
  target = networks.target(config, logits, names)
  assert target.name == "c"
  share = np.exp(2.0) / np.exp(logits).sum()
  assert target.probability == pytest.approx(share)
  output = sites.Output(np.float32(logits)[None], (), {})
  expected = {"margin": 1.5, "logit": 2.0, "log_probability": np.log(share)}
  assert float(target.read(output, {})[0]) == pytest.approx(
    expected[readout], abs=1e-6
  )
  config = dataclasses.replace(config, target="")
  assert networks.target(config, -logits, names).name == "b"
  config = dataclasses.replace(config, target="d")
  assert networks.target(config, logits, names).name == "d"


@pytest.mark.slow
def test_a_head_is_fitted_once_and_used_again(made, tmp_path, capsys):
  arguments = [
    "explain",
    "--config=sentiment:quick",
    f"--config.model={made / 'embedding'}",
    f"--config.data={made / 'rows.csv'}",
    "--config.row=4",
    "--config.absent=remove",
    "--config.players=tokens",
    "--config.budget=8",
    f"--workdir={tmp_path}",
  ]
  out = command.done(capsys, *arguments)
  assert "on the 6 texts of rows.csv" in out and "saved to" in out
  assert "labelled good" in out and "of 200 random masks" in out
  first = _files(tmp_path)
  assert first["names"] == ["fun", "and", "fun (2)"]  # Quotes are taken off.
  config = _config(
    "sentiment", made / "embedding", data=str(made / "rows.csv"), row=4,
    absent="remove", players="tokens",
  )  # fmt: skip
  asked = sentiment.subject(config, tmp_path)
  assert f"restored from {tmp_path / 'model'}" in asked.facts["head"]
  masks = np.arange(8)[:, None] >> np.arange(3) & 1 > 0
  # All masks were asked: the expansion is the function, up to float32.
  fourier = sparse.SparseFourier.load(tmp_path / "fourier.json")
  np.testing.assert_allclose(
    asked.evaluator(masks), fourier(masks), rtol=0, atol=_TOLERANCE
  )
  config = dataclasses.replace(config, head_c=1.0)
  with pytest.raises(ValueError, match="another configuration: head_c differs"):
    sentiment.subject(config, tmp_path)


@pytest.mark.slow
def test_embeddings_are_those_of_one_text_at_a_time(made):
  net = models.load(made / "embedding")
  apply = jax.jit(net.apply)
  texts = ("the film is great fun and never boring", "fun", "great")
  vectors, cut = embedding.of_texts(net, texts, max_tokens=6)
  assert cut == 1
  for text, vector in zip(texts, vectors):
    ids = net.tokenizer.encode(text).ids
    if len(ids) > 6:
      ids = np.append(ids[:5], ids[-1])
    alone = apply(net.params, input_ids=ids[None]).logits[0]
    np.testing.assert_allclose(vector, alone, rtol=0, atol=_TOLERANCE)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_head_is_scikit_learn_s(num_classes):
  rng = np.random.default_rng(0)
  vectors, labels = rng.normal(size=(30, 4)), np.arange(30) % num_classes
  head = heads.fit(vectors, labels, 2.0)
  model = linear_model.LogisticRegression(C=2.0, max_iter=5000)
  expected = model.fit(vectors, labels).predict_log_proba(vectors)
  logits = vectors @ head.kernel + head.bias
  logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  # The head is rounded to float32.
  np.testing.assert_allclose(logs, expected, rtol=0, atol=1e-5)
  assert 0 <= head.accuracy <= 1
  with pytest.raises(ValueError, match="must be above 0; got 0"):
    heads.fit(vectors, labels, 0)


def test_the_recorded_game_of_a_review(tmp_path):
  """sentiment55: its words, its mask token and its head, by `subject`."""
  shared = checkpoints.shared().parent
  folder = checkpoints.minilm()
  card = json.loads((shared / "games" / "cards.json").read_text())
  card = card["sentiment55"]
  config = _config(
    "sentiment", folder, data=str(shared / "data" / "sentiment.csv"), row=40,
    target="positive",
  )  # fmt: skip
  coef, intercept = np.array(card["coef"]), np.array([card["intercept"]])
  kernel = np.stack([-coef, coef], axis=1) / 2
  bias = np.concatenate([-intercept, intercept]) / 2
  given = heads.Head(*map(np.float32, (kernel, bias, np.array(0.7))))
  data = sentiment.texts(config)
  origin = sentiment.origin(config, data, card["max_tokens"])
  checkpoint.save(tmp_path / "model", given, origin)
  asked = sentiment.subject(config, tmp_path)
  with np.load(shared / "games" / "sentiment55.npz") as game:
    n, values = int(game["n"]), game["test_values"]
    masks = np.unpackbits(game["test_masks"], axis=1, count=n).astype(bool)
  assert asked.evaluator.n == n
  got = asked.evaluator(masks[:16])
  np.testing.assert_allclose(got, values[:16], atol=1e-4 * np.ptp(values))


@pytest.mark.slow
def test_a_language_model_on_the_command(made, tmp_path, capsys):
  out = command.done(
    capsys, "explain", "--config=lm:quick", f"--config.model={made / 'lm'}",
    "--config.text=the film is fun", "--config.method=exact",
    f"--workdir={tmp_path}",
  )  # fmt: skip
  assert _files(tmp_path)["names"] == ["the", "film", "is", "fun"]
  assert "next comes" in out and "<|end|> stands in front" in out
  assert "of 200 random masks" in out
  view = report.read(tmp_path)[0].views[0]
  assert view["pieces"][0] == ["the", 0] and view["pieces"][1] == [" ", -1]
  assert "".join(text for text, _ in view["pieces"]) == "the film is fun"


def _log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.slow
def test_a_removed_word_is_as_if_it_had_not_been_there(made, spoken, tmp_path):
  config = _config(
    "lm", made / "lm", prefix="is", text=" the film the fun", suffix=" film",
    num_tokens=2, reduce="mean", bos="yes",
  )  # fmt: skip
  asked = language.subject(config, tmp_path)
  assert asked.names == ("the", "film", "the (2)", "fun")
  tokenizer, logits_of = spoken
  pieces = ["is", " the", " film", " the", " fun", " film"]
  own = [tokenizer.encode(p, add_special=False).ids for p in pieces]
  bos = [tokenizer.id_of("bos")]
  whole = np.concatenate([bos, *own])
  target = []
  for _ in range(2):  # Greedy, one forward for each.
    target.append(int(np.argmax(logits_of(np.append(whole, target))[-1])))
  masks = _masks(4)
  for mask, got in zip(masks, asked.evaluator(masks)):
    kept = [True, *mask, True]
    ids = np.concatenate([bos, *[o for o, k in zip(own, kept) if k], target])
    logs = _log_softmax(logits_of(ids))
    expected = (logs[-3, target[0]] + logs[-2, target[1]]) / 2
    assert got == pytest.approx(expected, abs=_TOLERANCE)


@pytest.mark.slow
def test_a_long_prefix_is_run_once(made, tmp_path, monkeypatch):
  config = _config(
    "lm", made / "lm", prefix="the fun film is the", text=" film fun",
    suffix=" is", absent="mask", token=".", num_tokens=2,
  )  # fmt: skip
  asked = language.subject(config, tmp_path)
  assert "are run once" in asked.facts["shared"]
  monkeypatch.setattr(language, "_SHARED", 1)  # Nothing is worth it.
  whole = language.subject(config, tmp_path)
  assert "shared" not in whole.facts
  masks = _masks(2)
  values = whole.evaluator(masks)
  assert np.ptp(values) > 0
  np.testing.assert_allclose(
    asked.evaluator(masks), values, rtol=0, atol=_TOLERANCE
  )
  assert asked.evaluator.stats.head_seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"readout": "margin", "rival": " fun"}, "logit(' film') - logit(' fun')"),
    ({"readout": "probability", "absent": "hide"}, "probability of ' film'"),
    ({"readout": "logit", "absent": "mask", "token": "."}, "becomes ."),
  ],
)
def test_other_questions_to_a_language_model(
  made, spoken, tmp_path, changes, words
):
  config = _config(
    "lm", made / "lm", text="the fun is", target=" film", **changes
  )
  asked = language.subject(config, tmp_path)
  assert any(words in fact for fact in asked.facts.values()), asked.facts
  tokenizer, logits_of = spoken
  # Something has to stay where absent words are not replaced.
  bos = "no" if config.absent == "mask" else "yes"
  logits = logits_of(tokenizer.encode("the fun is", bos=bos).ids)[-1]
  film, fun = (tokenizer.find(word) for word in ("Ġfilm", "Ġfun"))
  expected = {
    "margin": logits[film] - logits[fun],
    "probability": np.exp(_log_softmax(logits)[film]),
    "logit": logits[film],
  }[config.readout]
  got = asked.evaluator(np.ones((1, 3), bool))
  np.testing.assert_allclose(got, expected, rtol=0, atol=_TOLERANCE)
  assert np.ptp(asked.evaluator(_masks(3, count=8))) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "model", "changes"),
  [
    ("sentiment", "classifier", {"text": "the film is fun"}),
    ("sentiment", "classifier", {"text": "the film is fun", "absent": "mask"}),
    ("lm", "lm", {"text": "the fun is", "absent": "mask", "token": "."}),
  ],
)
def test_gradients_meet_the_values_at_both_ends(
  made, tmp_path, name, model, changes
):
  config = _config(name, made / model, method="gradient_x_input", **changes)
  asked = explain.subject_of(config, tmp_path)
  assert asked.game is not None
  found = gradients.gradient_x_input(asked.game)
  n = len(asked.names)
  ends = asked.evaluator(np.stack([np.ones(n, bool), np.zeros(n, bool)]))
  # These words are one token each, so one mask token is as good as many.
  np.testing.assert_allclose(
    [found.kept, found.absent], ends, rtol=0, atol=_TOLERANCE
  )
  assert np.abs(found.values).max() > 1e-3


def test_tokens_that_move_have_no_gradient(made, tmp_path):
  config = _config(
    "sentiment", made / "classifier", text="fun", absent="hide",
    method="gradient_x_input",
  )  # fmt: skip
  remedy = "needs a model that JAX can differ.*--config.absent=mask. Or choose"
  with pytest.raises(ValueError, match=remedy):
    explain.run(config, tmp_path, show=lambda *_: None)
