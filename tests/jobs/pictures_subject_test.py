"""Pictures on the command: values against forwards on images made by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from spex_jax import cli, models
from spex_jax.ablate import gradients
from spex_jax.jobs import pictures, report
from tests import command
from tests.jobs import small
from tests.models import checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A classifier, and a picture `cat.png` beside it."""
  folder = small.vit(tmp_path_factory.mktemp("models") / "vit")
  Image.fromarray(small.picture()).save(folder / "cat.png")
  return folder


def _config(folder, **changes):
  own = {"model": str(folder), "image": str(folder / "cat.png")}
  return cli.load_config("image:quick", changes=own | changes)


@pytest.mark.slow
def test_a_picture_on_the_command(folder, tmp_path, capsys):
  out = command.done(
    capsys, "explain", "--config=image:quick", f"--config.model={folder}",
    "--config.target=eel", f"--workdir={tmp_path}",
  )  # fmt: skip
  # The photograph of scikit-learn's: 427 rows of 640 pixels.
  assert "640 x 427 pixels, prepared to 12 x 12" in out
  assert "make the model see eel?" in out and "the blurred image" in out
  answer = json.loads((tmp_path / "explanation.json").read_text())
  assert answer["names"] == ["r0c0", "r0c1", "r1c0", "r1c1"]
  view = report.read(tmp_path)[0].views[0]
  assert view["size"] == [12, 12] and view["shapes"][0] == "M0 0H6V6H0Z"
  assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_constant_in_the_place_of_absent_patches(folder, tmp_path):
  config = _config(
    folder, baseline="constant", value=0.25, readout="logit", target="1",
    players="patches", patch=6,
  )  # fmt: skip
  asked = pictures.subject(config, tmp_path)
  net = models.load(folder)
  resized = Image.fromarray(small.picture()).resize((12, 12), 2)
  mean, std = (
    np.array(small.PREPARATION[f"image_{x}"]) for x in ("mean", "std")
  )
  masks = np.random.default_rng(1).random((5, 4)) < 0.5
  apply = jax.jit(net.apply)
  for mask, got in zip(masks, asked.evaluator(masks)):
    pixels = np.asarray(resized) / 255
    for patch in np.flatnonzero(~mask):
      row, col = 6 * (patch // 2), 6 * (patch % 2)
      pixels[row : row + 6, col : col + 6] = 0.25
    values = ((pixels - mean) / std).transpose(2, 0, 1)[None]
    logits = apply(net.params, pixel_values=values.astype(np.float32)).logits
    # float32 of one tiny block, in two orders of summation.
    assert got == pytest.approx(float(logits[0, 1]), abs=1e-5)
  config = dataclasses.replace(config, method="gradient_x_input")
  found = gradients.gradient_x_input(pictures.subject(config, tmp_path).game)
  ends = asked.evaluator(np.repeat([[True], [False]], 4, axis=1))
  np.testing.assert_allclose(
    [found.kept, found.absent], ends, rtol=0, atol=1e-5
  )


@pytest.mark.slow
def test_segments_filled_in_from_around(folder, tmp_path):
  config = _config(
    folder, players="segments", num_segments=4, baseline="inpainted"
  )
  asked = pictures.subject(config, tmp_path)
  assert 1 < asked.evaluator.n <= 4
  masks = np.eye(asked.evaluator.n, dtype=bool)
  assert np.ptp(asked.evaluator(masks)) > 0


@pytest.mark.slow
def test_recorded_logits_of_ready_pixel_values(tmp_path):
  """No preparation is needed, nor any file that describes one."""
  recorded = checkpoints.shared("tiny", "vit")
  inputs, expected = checkpoints.recorded(recorded)
  np.save(tmp_path / "ready.npy", inputs["pixel_values"][0])
  config = _config(
    recorded, image=str(tmp_path / "ready.npy"), readout="logit", target="0"
  )
  asked = pictures.subject(config, tmp_path)
  logits = expected["out_logits"][0].astype(np.float64)
  got = asked.evaluator(np.ones((1, asked.evaluator.n), bool))
  # The agreement that is asked of recorded outputs.
  assert got[0] == pytest.approx(logits[0], abs=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    ({"image": "gone.png"}, FileNotFoundError, "'gone.png' is no file, nor"),
    ({"image": "text.png"}, ValueError, "text.png is no picture"),
    (
      {"image": "small.npy"},
      ValueError,
      r"must be \[B, 3, 12, 12\], the size that this model was made for; got "
      r"\(1, 3, 5, 5\)",
    ),
    ({"image": "grey.npy"}, ValueError, "takes images of 3 channels; this one"),
    ({"image": "nan.npy"}, ValueError, "nan.npy holds NaN or infinity"),
    ({"image": "flat.npy"}, ValueError, r"must hold uint8 \[H, W, 3\] or floa"),
    ({"players": "stars"}, ValueError, "players='stars': choose from grid"),
    (
      {"baseline": "zero"},
      ValueError,
      "baseline='zero': choose from mean, blur",
    ),
    ({"sigma": -1.0}, ValueError, "sigma=-1.0: must be above 0"),
    ({"target": "bat"}, ValueError, "'bat' is no class of the model; it has c"),
    ({"rows": 13}, ValueError, "1..12 rows and 1..12 columns; got 13 and 2"),
  ],
)
def test_bad_pictures(folder, monkeypatch, tmp_path, changes, error, message):
  monkeypatch.chdir(tmp_path)
  for name, shape in (("small", (3, 5, 5)), ("grey", (1, 12, 12))):
    np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.float32))
  np.save(tmp_path / "nan.npy", np.full((3, 12, 12), np.nan))
  np.save(tmp_path / "flat.npy", np.zeros(12))
  (tmp_path / "text.png").write_text("no picture")
  with pytest.raises(error, match=message):
    pictures.subject(_config(folder, **changes), tmp_path)


def test_models_that_cannot_take_a_picture(folder, tmp_path):
  bare = small.vit(tmp_path / "bare")
  (bare / "preprocessor_config.json").unlink()
  with pytest.raises(ValueError, match="bare has no preprocessor_config.json"):
    pictures.subject(_config(bare, image="china"), tmp_path)
  text = small.bert(tmp_path / "text")
  with pytest.raises(
    ValueError, match="is no image classifier; such are dinov2, vit"
  ):
    pictures.subject(_config(text, image="china"), tmp_path)
