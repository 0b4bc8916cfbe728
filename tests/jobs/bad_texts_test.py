"""Texts, targets and models that cannot be used: one clear message each."""

import dataclasses
import json

import pytest
import safetensors.numpy

from spex_jax import cli
from spex_jax.jobs import explain as job
from spex_jax.jobs import language, sentiment
from tests.jobs import small


def _config(name, model, **changes):
  changes = {"model": str(model), **changes}
  return cli.load_config(f"{name}:quick", changes=changes)


@pytest.mark.parametrize(
  ("name", "model", "changes", "message"),
  [
    ("sentiment", "classifier", {"text": " "}, "The text is empty: ' '"),
    (
      "sentiment",
      "classifier",
      {"text": "fun " * 30},
      "has 32 tokens, and the model takes 24",
    ),
    (
      "sentiment",
      "classifier",
      {"target": "wonderful"},
      "target='wonderful' is no class of the model; it has bad, fine, great,",
    ),
    ("sentiment", "classifier", {"target": "3"}, "target='3' is no class"),
    ("sentiment", "single", {}, "margin' needs a second class"),
    ("sentiment", "classifier", {"pattern": "("}, "is no regular expression"),
    ("sentiment", "classifier", {"token": "zebra"}, "'zebra' is not one token"),
    ("sentiment", "classifier", {"row": 1}, "row=1 of what\\? Give the texts"),
    ("sentiment", "embedding", {}, "gives embeddings and no classes. Give te"),
    (
      "sentiment",
      "classifier",
      {"data": "rows.csv", "row": 6},
      "rows.csv has rows 0 to 5",
    ),
    (
      "sentiment",
      "lm",
      {},
      "is no text encoder; such are bert, roberta, distilbert, modernbert.",
    ),
    (
      "lm",
      "classifier",
      {},
      "is no causal language model; such are gpt2, llama, mistral, qwen2,",
    ),
    ("lm", "lm", {"text": ""}, "The text is empty: ''"),
    ("lm", "lm", {"text": "film " * 60}, "and the model takes 48"),
    ("lm", "lm", {"target_id": 9999}, "target_id=9999 must lie in 0..269"),
    (
      "lm",
      "lm",
      {"target_id": 1, "target": "x"},
      "Give target or target_id, not both",
    ),
    (
      "lm",
      "lm",
      {"text": "the", "readout": "logit", "target": " the film"},
      "readout='logit' is of one token",
    ),
    ("lm", "lm", {"text": "the fi", "target": "lm"}, "Begin it with a space"),
    ("lm", "lm", {"rival": " fun"}, "rival=' fun' is for readout='margin'"),
    (
      "lm",
      "lm",
      {"readout": "margin", "rival": " zz"},
      "rival=' zz' is 3 tokens, not one",
    ),
    ("lm", "lm", {"absent": "mask"}, "absent='mask' needs a mask token"),
  ],
)
def test_bad_texts(made, tmp_path, monkeypatch, name, model, changes, message):
  monkeypatch.chdir(made)
  text = "the film is fun" if name == "lm" else "the film is great fun"
  config = _config(name, made / model, **{"text": text, **changes})
  with pytest.raises(ValueError, match=message):
    job.subject_of(config, tmp_path)


@pytest.mark.parametrize("name", ["sentiment", "lm", "image"])
def test_a_model_has_to_be_named(name, tmp_path, monkeypatch):
  monkeypatch.setattr(sentiment, "_PACKAGE", "a_package_that_is_not_there")
  config = cli.load_config(f"{name}:quick")
  with pytest.raises(ValueError, match="--config.model=DIRECTORY_OR_HUB_NAME"):
    job.run(config, tmp_path, show=lambda line: None)


def test_an_unsupported_family_is_named_with_the_list(tmp_path, capsys):
  (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
  arguments = [f"--config.model={tmp_path}", f"--workdir={tmp_path / 'w'}"]
  assert cli.main(["explain", "--config=lm:quick", *arguments]) == 1
  error = capsys.readouterr().err
  assert "models of type 'mamba' are not supported; supported are be" in error
  assert error.count("\n") == 1


def test_a_directory_that_is_not_there_is_one_line(tmp_path, capsys):
  arguments = ["--config.model=./gone", f"--workdir={tmp_path / 'w'}"]
  assert cli.main(["explain", "--config=lm:quick", *arguments]) == 1
  assert capsys.readouterr().err == (
    "spex: error: './gone' is neither a directory nor a hub name like "
    "'owner/model' or 'gpt2'.\n"
  )


def test_a_model_without_a_tokenizer(made, tmp_path):
  folder = small.gpt2(tmp_path / "mute")
  (folder / "tokenizer.json").unlink()
  config = _config("lm", folder)
  with pytest.raises(ValueError, match="mute' has no tokenizer.json"):
    language.subject(config, tmp_path)


def test_nothing_may_be_left_once_all_is_removed(tmp_path):
  folder = small.gpt2(tmp_path / "headless")
  (folder / "tokenizer_config.json").write_text("{}")
  config = _config("lm", folder, text="the film is")
  with pytest.raises(ValueError, match="puts nothing in front. Give --config."):
    language.subject(config, tmp_path)
  config = dataclasses.replace(config, prefix="fun ")
  asked = language.subject(config, tmp_path)
  assert "stands in front" not in asked.facts["value"]


def test_logits_that_are_nan(made, tmp_path):
  folder = small.gpt2(tmp_path / "nan")
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(str(path))
  tensors["transformer.ln_f.weight"][:] = 3e38  # Finite; its products are not.
  safetensors.numpy.save_file(tensors, str(path))
  config = _config("lm", folder, text="the film is")
  with pytest.raises(ValueError, match="logits for the whole input hold NaN"):
    language.subject(config, tmp_path)


def test_class_names_must_fit(tmp_path):
  folder = small.bert(tmp_path / "twins", labels=("same", "same"))
  config = _config("sentiment", folder, text="the film is fun")
  with pytest.raises(ValueError, match="need 2 different names for 0..1"):
    sentiment.subject(config, tmp_path)
  settings = json.loads((folder / "config.json").read_text())
  assert settings.pop("id2label")
  (folder / "config.json").write_text(json.dumps(settings))
  asked = sentiment.subject(config, tmp_path)
  assert asked.facts["value"] in ("logit(0) - logit(1)", "logit(1) - logit(0)")


def test_labels_that_do_not_exclude_each_other(tmp_path):
  folder = small.bert(tmp_path / "labels", labels=("fun", "long"))
  settings = json.loads((folder / "config.json").read_text())
  settings["problem_type"] = "multi_label_classification"
  (folder / "config.json").write_text(json.dumps(settings))
  config = _config("sentiment", folder, text="the film is fun")
  with pytest.raises(ValueError, match="labels do not exclude each other"):
    sentiment.subject(config, tmp_path)
