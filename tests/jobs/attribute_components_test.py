"""`spex attribute components`: end to end, and refused."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from spex_jax import cli, configs
from spex_jax.ablate import components, stand_ins
from spex_jax.jobs import attribute_components as job
from spex_jax.jobs import explain, network_parts, report
from spex_jax.models import hub
from tests import command
from tests.jobs import small
from tests.models import checkpoints


def _run(config, workdir):
  lines = []
  answer = job.run(config, workdir, show=lines.append)
  return answer, [line for line in lines if isinstance(line, str)]


def _config(name, **changes):
  if name.startswith("components_lm"):
    changes = {"prompt": "the cat sat on", **changes}
  return cli.load_config(name, "components", {"budget": 60, **changes})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return str(small.gpt2(tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
  """The quick command, run once: its workdir, answer and lines."""
  workdir = tmp_path_factory.mktemp("digits")
  config = _config("components_digits:quick", training={"num_epochs": 1})
  answer, lines = _run(config, workdir)
  return config, workdir, answer, lines


def test_every_configuration_is_tested_here():
  assert list(configs.named("components")) == [
    "components_digits",
    "components_image",
    "components_lm",
  ]


@pytest.mark.slow
def test_the_network_of_digits_is_taken_apart(digits):
  _, workdir, answer, lines = digits
  said = "\n".join(lines)
  assert "Which heads make the network right about 8 test images?" in said
  assert "8 parts in 2 layers; an absent one gives zeros" in said
  layers = next(line for line in lines if line.startswith("layers"))
  assert "no interactions" in layers or "where 42.9% of all pairs" in layers
  names = [f"blocks.{b}.attn {h}" for b in range(2) for h in range(4)]
  body = json.loads((workdir / "explanation.json").read_text())
  assert body["names"] == names and answer.fourier.n == 8
  assert (workdir / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_coar_needs_no_sets_and_uses_the_same_network(digits):
  config, workdir, _, _ = digits
  config = dataclasses.replace(config, method="coar", keep=0.7)
  answer, lines = _run(config, workdir)
  said = "\n".join(lines)
  assert "restored from" in said and "correlation" in said
  assert "40 masks to fit and 20 to judge, each of 8 parts kept" in said
  body = json.loads((workdir / "attribution.json").read_text())
  assert body["names"][3] == "blocks.0.attn 3" and body["keep"] == 0.7
  np.testing.assert_array_equal(body["scores"], answer.scores[0])
  assert body["correlation"] > 0.5
  views = report.read(workdir)[0].views
  assert [view["kind"] for view in views] == ["sets", "sets", "image"]
  assert views[1]["layers"][0] == "blocks.0.attn"
  assert len(views[1]["layer_of"]) == 8


def test_a_language_model_by_short_flags(model, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  out = command.done(
    capsys, "attribute", "components", "--model", model, "--prompt=the cat sat",
    "--target= on", "--config.budget=64", "--config.method=lasso",
    "--config.batch_size=16", "--config.microbatch=8",
  )  # fmt: skip
  assert "make the model say ' on' next?" in out
  assert "prompt        'the cat sat'" in out
  assert (tmp_path / "runs/components_lm/figure.png").exists()


@pytest.mark.slow
def test_a_picture_by_short_flags(tmp_path, capsys):
  folder = small.vit(tmp_path / "vit")
  Image.fromarray(small.picture()).save(tmp_path / "cat.png")
  out = command.done(
    capsys, "attribute", "components", f"--image={tmp_path / 'cat.png'}",
    "--model", str(folder), "--target=eel", "--config.players=neurons",
    "--config.method=coar", "--config.budget=60", "--config.batch_size=20",
    "--config.microbatch=10", f"--workdir={tmp_path / 'run'}",
  )  # fmt: skip
  assert "Which neurons make the model see eel in " in out
  assert "10 parts in 1 layer; an absent one gives zeros" in out
  body = json.loads((tmp_path / "run/attribution.json").read_text())
  assert body["names"][9] == "blocks.0.mlp 9" and body["units"] == "logit"


@pytest.mark.slow
def test_filters_of_a_resnet(tmp_path):
  """Those of two layers; absent ones give their means over other pictures."""
  folder = checkpoints.shared("tiny", "resnet_basic")
  net = hub.load(folder)
  rng = np.random.default_rng(0)
  size = (net.config.num_channels, *net.example["pixel_values"].shape[2:])
  pixels = rng.normal(size=(3, *size)).astype(np.float32)
  (tmp_path / "others").mkdir()
  np.save(tmp_path / "one.npy", pixels[0])
  for number in (1, 2):
    np.save(tmp_path / "others" / f"{number}.npy", pixels[number])
  config = _config(
    "components_image:quick", model=str(folder), readout="logit", target="1",
    image=str(tmp_path / "one.npy"), absent="mean",
    background=str(tmp_path / "others"),
  )  # fmt: skip
  subject = network_parts.of_picture(config, tmp_path)
  at = components.shapes(net, net.params, pixel_values=pixels)
  players = components.filters(at)
  assert subject.names == players.names
  captured = net.apply(
    net.params, capture=tuple(players.owner), pixel_values=pixels[1:]
  ).activations
  means = stand_ins.mean(captured, (0, 2, 3))
  mask = rng.random(players.n) < 0.5
  edits = players.edits(mask, means)
  logits = net.apply(net.params, edits, pixel_values=pixels[:1]).logits
  found = subject.evaluator(mask[None])[0]
  # float32 sums of a small network, in two orders.
  np.testing.assert_allclose(found, logits[0, 1], rtol=1e-4, atol=1e-4)
  config = dataclasses.replace(config, background=str(tmp_path / "one.npy"))
  with pytest.raises(ValueError, match="give a folder of nothing else by"):
    network_parts.of_picture(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["mean", "resample"])
def test_stand_ins_are_of_the_background(model, tmp_path, absent):
  """The value of no head is that of heads that give what stands in."""
  file = tmp_path / "texts.txt"
  file.write_text("the cat sat on the mat\n\nthe dog sat on it and sat\n")
  config = _config(
    "components_lm:quick", model=model, prompt="the cat", absent=absent,
    background=str(file), target_id=7, readout="logit",
  )  # fmt: skip
  subject = network_parts.of_language_model(config, tmp_path)
  net = hub.load(model)
  ids = net.tokenizer.encode("the cat").ids
  texts = [
    net.tokenizer.encode(line).ids
    for line in file.read_text().splitlines()
    if line
  ]
  sites = [f"blocks.{b}.attn.z" for b in range(net.config.num_blocks)]
  own = [
    net.apply(net.params, capture=tuple(sites), input_ids=text[None])
    for text in texts
  ]
  players = components.heads(
    components.shapes(net, net.params, input_ids=ids[None])
  )
  none = np.zeros(players.n, bool)

  def value(stand_ins):
    edits = players.edits(none, stand_ins)
    return net.apply(net.params, edits, input_ids=ids[None]).logits[0, -1, 7]

  if absent == "mean":
    means = {
      site: np.concatenate([o.activations[site][0] for o in own]).mean(axis=0)
      for site in sites
    }
    expected = value({s: m[None, None] for s, m in means.items()})
  else:
    drawn = [
      value({s: o.activations[s][:, : len(ids)] for s in sites}) for o in own
    ]
    expected = np.mean(drawn)
  # A handful of float32 sums on logits of size 1.
  found = subject.evaluator(none[None])[0]
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_whole_layers_by_pattern(model, tmp_path):
  config = _config(
    "components_lm:quick", model=model, pattern="*mlp.neurons,*attn.z",
    whole=True,
  )  # fmt: skip
  subject = network_parts.of_language_model(config, tmp_path)
  net = hub.load(model)
  parts_of = ("attn.z", "mlp.neurons")
  expected = [
    f"blocks.{b}.{part}" for b in range(net.config.num_blocks)
    for part in parts_of
  ]  # fmt: skip
  assert subject.names == tuple(expected)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"players": "filters"}, "No convolution filters here"),
    ({"pattern": "blocks.7.attn.z"}, "Did you mean blocks."),
    ({"pattern": "logits"}, "There is one part only, logits"),
    ({"absent": "mean"}, "give a file of them, a line each, by --config.backg"),
    ({"absent": "mean", "rescale": True}, "does not go with absent='mean'"),
    ({"whole": True}, "name them by --config.pattern"),
    ({"prompt": ""}, "The prompt is empty"),
    (
      {"target": "zebra", "readout": "logit"},
      "readout='logit' is of one token",
    ),
    ({"method": "coar", "budget": 20}, "method=coar needs 40 masks"),
    ({"model": ""}, "give a causal language model by --config.model"),
  ],
)
def test_bad_settings(model, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    config = _config("components_lm:quick", **{"model": model, **changes})
    job.run(config, tmp_path / "run", show=lambda line: None)


def test_backgrounds_that_hold_nothing(model, tmp_path):
  empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
  empty.write_text("\n")
  short.write_text("a\n")
  for file, absent, message in (
    (empty, "mean", "holds no text"),
    (short, "resample", "No text of .* has the prompt's"),
  ):
    config = _config(
      "components_lm:quick", model=model, absent=absent, background=str(file)
    )
    with pytest.raises(ValueError, match=message):
      network_parts.of_language_model(config, tmp_path)


def test_a_configuration_of_another_command(tmp_path):
  config = cli.load_config("digits:quick")
  with pytest.raises(ValueError, match="is it one of `spex attribute comp"):
    job.run(config, tmp_path)


def test_help_names_every_method_and_kind(capsys):
  out = command.done(capsys, "attribute", "components", "--help")
  for word in (
    *network_parts.METHODS,
    *components.KINDS,
    *network_parts.ABSENT,
  ):
    assert word in out
  for name in list(configs.named("components")):
    assert f"\n  {name}\n" in out
  assert max(map(len, out.splitlines())) <= 80
  known = {"digits_components", "image_components", "lm_components"}
  assert known <= set(explain.SUBJECTS)
