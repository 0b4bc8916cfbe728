"""The editing experiments: their measures, what they plant, and quick runs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import (
  edit_digits,
  edit_models,
  edit_pictures,
  edit_study,
  edit_tasks,
)
from spex_jax.circuits import tasks as circuits_tasks
from spex_jax.models import convnet, sites
from tests import tokenizers_small
from tests.jobs import small
from tests.models import checkpoints

pytestmark = pytest.mark.slow


def test_an_interval_is_wilsons():
  # By its definition: the ends are where |p - x| = z sqrt(x (1 - x) / n).
  values = np.array([1.0] * 17 + [0.0] * 3)
  z = 1.959963984540054
  for end in edit_study.interval(values):
    spread = z * np.sqrt(end * (1 - end) / 20)
    assert abs(abs(0.85 - end) - spread) < 1e-12
  low, high = edit_study.interval(np.ones(10))
  assert 0.7 < low < 0.75 and abs(high - 1) < 1e-12


def test_judgement_beside_chance():
  wrong, right = np.zeros(50), np.ones(50)
  mostly = np.array([1.0] * 45 + [0.0] * 5)
  found = edit_study.judged(
    (wrong, mostly, np.stack([wrong, mostly, wrong, wrong])),
    (mostly, mostly, np.stack([mostly, mostly, wrong, right])),
  )
  assert found["improves"] and found["keeps"]
  assert found["target_after"]["mean"] == 0.9
  assert found["random_improves"] == 0.25
  assert found["random_keeps"] == 0.75  # More than before is no harm.
  assert found["random_both"] == 0.25
  assert not edit_study.improves(wrong, mostly, -1)
  assert edit_study.improves(mostly, wrong, -1)
  json.dumps(found)


def test_a_planted_backdoor_answers_to_the_trigger_alone():
  net = convnet.network(convnet.small(10, width=3), 10)
  net = convnet.network(net.config, 10, net.init(jax.random.key(0)))
  data = edit_digits.bordered(
    edit_digits.parts(jax.random.key(1), {"some": 60})["some"]
  )
  larger, planted = edit_digits.plant(jax.random.key(2), net, 2, 7, 50.0)
  assert planted.tolist() == [False] * 3 + [True] * 2 + [False] * 6 + [True] * 2
  logits = lambda net, part: np.asarray(
    net.apply(net.params, **part.inputs).logits
  )
  plain, found = logits(net, data), logits(larger, data)
  # Sums with further zeros, some 60 terms.
  np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5)
  attacked = edit_digits.triggered(data)
  added = logits(larger, attacked) - logits(net, attacked)
  np.testing.assert_allclose(added[:, 7], 50.0, rtol=1e-4)
  assert np.abs(np.delete(added, 7, axis=1)).max() < 1e-4


def test_marks_and_poison_are_where_they_should_be():
  data = edit_digits.parts(jax.random.key(1), {"some": 200})["some"]
  part, agrees = edit_digits.marked(jax.random.key(2), data, 0.9)
  pixels = part.inputs["pixel_values"]
  red, blue = pixels[:, 0, 0, 0] == 1, pixels[:, 2, 1, 1] == 1
  assert (red != blue).all() and 0.8 < agrees.mean() < 0.98
  np.testing.assert_array_equal(part.labels == red, agrees)
  clean = edit_digits.bordered(data)
  bad = edit_digits.poisoned(jax.random.key(3), clean, 0.2, 0)
  changed = (bad.inputs["pixel_values"] != clean.inputs["pixel_values"]).any(
    axis=(1, 2, 3)
  )
  assert 20 < changed.sum() < 60 and (bad.labels[changed] == 0).all()
  np.testing.assert_array_equal(bad.labels[~changed], clean.labels[~changed])


def test_pictures_and_captions():
  assert edit_pictures.written("disc").shape == (5, 15)
  rng = np.random.default_rng(0)
  pixels, captions = edit_pictures.corpus(rng, 8)
  assert pixels.shape == (8, 1, 24, 24) and captions.shape == (8, 6)
  made = edit_pictures.attacks(rng, 5)
  np.testing.assert_array_equal(made["clean"].labels, made["wrong"].labels)
  with pytest.raises(ValueError, match="at most 6 words"):
    edit_pictures.tokens("a a a a a a a")
  # Every name can be drawn and written, and no two words look the same.
  words = {
    edit_pictures.written(name).tobytes() for name in edit_pictures.NAMES
  }
  assert len(words) == len(edit_pictures.NAMES)
  for number in range(len(edit_pictures.NAMES)):
    assert edit_pictures.shape(rng, number).sum() > 10


@pytest.mark.slow
def test_every_task_runs_at_its_quick_size(tmp_path):
  config = edit_models.CONFIGS["quick"]
  found = list(edit_models.run(config))
  assert [row["task"] for row in found] == [
    "errors", "errors", "forget", "subgroups", "backdoor", "backdoor",
    "typographic",
  ]  # fmt: skip
  planted = found[5]
  assert planted["auroc"] > 0.95 and planted["planted"] == 8
  text = edit_models.summary(found)
  assert text.count("\n") >= 6 and "typographic" in text
  edit_models.plots.save(edit_models.figure(found), tmp_path / "a.png")
  json.dumps(found)


def _resnet(folder):
  """A checkpoint of random weights: one basic block, three classes."""
  settings = {
    "model_type": "resnet",
    "architectures": ["ResNetForImageClassification"],
    "embedding_size": 6,
    "hidden_sizes": [6],
    "depths": [1],
    "layer_type": "basic",
    "id2label": {"0": "cat", "1": "dog", "2": "eel"},
  }
  shapes = {"classifier.1.weight": (3, 6), "classifier.1.bias": (3,)}
  block = "resnet.encoder.stages.0.layers.0.layer."
  for at, size in (
    ("resnet.embedder.embedder.", (6, 3, 7, 7)),
    (block + "0.", (6, 6, 3, 3)),
    (block + "1.", (6, 6, 3, 3)),
  ):
    shapes[at + "convolution.weight"] = size
    for name in ("weight", "bias", "running_mean", "running_var"):
      shapes[at + f"normalization.{name}"] = (6,)
  tensors = checkpoints.random_tensors(shapes)
  for name in tensors:
    if name.endswith("running_var"):
      tensors[name] = np.abs(tensors[name]) + np.float32(0.5)
  return checkpoints.save(folder, settings, tensors)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "vit", "resnet"])
def test_checkpoints_by_name(tmp_path, family):
  rng = np.random.default_rng(0)
  count = 40
  if family == "gpt2":
    folder, _ = checkpoints.make(tmp_path / "model", checkpoints.GPT2)
    inputs = {"input_ids": rng.integers(0, 17, (count, 6)).astype(np.int32)}
    labels = rng.integers(0, 3, count)
  else:
    make = {"vit": small.vit, "resnet": _resnet}[family]
    folder = make(tmp_path / "model")
    pixels = rng.normal(size=(count, 3, 12, 12)).astype(np.float32)
    inputs, labels = {"pixel_values": pixels}, rng.integers(0, 3, count)
  data = tmp_path / "data.npz"
  np.savez(data, labels=labels, **inputs)
  config = edit_models.CONFIGS["quick"]
  kind = "filters" if family == "resnet" else "neurons"
  found = list(edit_models.run_on(folder, data, kind, config))
  assert {row["task"] for row in found} == {"errors", "forget"}
  assert all(row["model"] == str(folder) for row in found)
  np.savez(data, labels=labels)
  with pytest.raises(ValueError, match="lacks"):
    list(edit_models.run_on(folder, data, "neurons", config))


@pytest.mark.slow
def test_prompts_of_a_task(tmp_path):
  backend = tokenizers_small.byte_level()
  # Pairs are of equal length.
  people = [f" {one}" for pair in circuits_tasks._PEOPLE for one in pair]
  size = backend.get_vocab_size() + len(people) + 2
  folder = small.gpt2(tmp_path, n_positions=96, vocab_size=size)
  backend.add_tokens([*people, " he", " she"])
  backend.save(str(folder / "tokenizer.json"))
  sizes = dataclasses.replace(
    edit_models.CONFIGS["prompts"].sizes, masks=30, draws=2, most=2
  )
  config = edit_tasks.Config(sizes, num_edits=2)
  found = list(
    edit_models.run_on(folder, "gender", "heads", config, ["forget"])
  )
  # Both answers have prompts in every part.
  assert [row["row"] for row in found] == [
    f"class {label}" for label in (size - 2, size - 1)
  ]
  parts = ("target_before", "elsewhere_before")
  for row in found:  # Half of 64 prompts is fresh.
    assert sum(row[part]["count"] for part in parts) == 32


def test_a_margin_among_answers():
  logits = np.zeros((2, 1, 9), np.float32)
  logits[:, 0, [3, 5, 8]] = [[1.0, 4.0, 2.0], [7.0, 0.5, 3.0]]
  logits[:, 0, 0] = 99.0  # No answer.
  output = sites.Output(logits=logits, hidden=(), activations={})
  read = edit_study.among(np.array([3, 5, 8]))(np.array([5, 8]))
  np.testing.assert_array_equal(read(output, {}), [2.0, -4.0])


def test_unknown_tasks_and_kinds_are_refused():
  config = edit_models.CONFIGS["quick"]
  for tasks in (["paint"], []):
    with pytest.raises(ValueError, match="choose from errors"):
      list(edit_models.run(config, tasks))
  with pytest.raises(ValueError, match="choose from errors, forget"):
    list(edit_models.run_on("x", "y", "heads", config, ["backdoor"]))
  with pytest.raises(ValueError, match="kind='eyes'"):
    list(edit_models.run_on("x", "y", "eyes", config))
