"""`spex checkup`: every word at its quick size, resumed, and refused."""

import json

import numpy as np
import pytest
from PIL import Image

from spex_jax import cli
from spex_jax.agents import loopback
from spex_jax.agents.checkup import author, drawing_metrics


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
  """A workdir of `draw`, with an embedder."""
  place = tmp_path_factory.mktemp("checkup") / "draw"
  assert _run("draw", place) == 0
  return place


def _run(word, place, *flags):
  given = [f"--config=checkup_{word}:quick", f"--workdir={place}", *flags]
  if word != "learn":  # However busy the machine is.
    given.append("--config.seconds=60")
  return cli.main(["checkup", word, *given])


def _read(place, name="summary.json"):
  return json.loads((place / name).read_text())


def test_draw_writes_records_pictures_and_metrics(embedded, capsys):
  lines = (embedded / "records.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert len(records) == 2 * 4 * 2
  for own in records:
    assert {"caption", "language", "code", "status", "sha256"} <= own.keys()
    assert own["status"] == "ok"
    path = embedded / "pictures" / f"{own['sha256']}.png"
    assert np.asarray(Image.open(path)).shape == (64, 64, 3)
  found = _read(embedded)
  assert set(found) == {"matplotlib", "svg"}
  for row in found.values():
    assert row["compiled"] == row["drawn"] == 1
    assert 0 <= row["fidelity"] <= 1 and row[drawing_metrics.FRECHET] > 0
  # Again: the embedder is kept; another configuration is refused.
  assert _run("draw", embedded) == 0
  assert _read(embedded) == found
  assert _run("draw", embedded, "--config.seed=5") == 1
  assert "seed differ" in capsys.readouterr().err


def test_improve_mends_in_rounds(embedded, tmp_path):
  flags = (f"--config.embedder_file={embedded}/embedder.msgpack",
           "--config.languages=svg", "--config.levels=shapes",
           "--config.defects=syntax,colour")  # fmt: skip
  assert _run("improve", tmp_path / "a", *flags) == 0
  rows = [*_read(tmp_path / "a").values()]
  assert [row["compiled"] for row in rows] == [0, 1, 1]
  assert rows[0]["fidelity"] == 0
  (tmp_path / "bad").write_bytes(b"no model")
  for name, said in (("bad", 1), ("none", 1)):
    where = f"--config.embedder_file={tmp_path}/{name}"
    assert _run("improve", tmp_path / name[:1], *flags[1:], where) == said


def test_recognise_and_explain(embedded, tmp_path, capsys):
  assert _run("recognise", tmp_path / "r") == 0
  assert _read(tmp_path / "r")["accuracy"]["all"] == 1
  assert _run(
    "explain", tmp_path / "e", "--config.languages=svg",
    f"--config.embedder_file={embedded}/embedder.msgpack",
  ) == 0  # fmt: skip
  found = _read(tmp_path / "e")["svg"]
  assert len(found["statements"]) == 4 and found["interactions"]
  assert "log odds of 'bicycle'" in capsys.readouterr().out


def test_a_model_at_an_endpoint_draws(embedded, tmp_path):
  asked = []
  good = f"```\n{author.Author('svg').code('a red circle')}```"

  def answer(body):
    asked.append(body)
    if len(asked) == 2:
      raise loopback.Refused("not today")
    return {"choices": [{"message": {"content": good}}]}

  flags = ("--config.languages=svg", "--config.levels=shapes",
           f"--config.embedder_file={embedded}/embedder.msgpack",
           "--config.model=any")  # fmt: skip
  with loopback.Server({"/v1/chat/completions": answer}) as server:
    where = f"--config.endpoint={server.url}/v1"
    assert _run("draw", tmp_path / "m", *flags, where) == 0
    lines = (tmp_path / "m" / "records.jsonl").read_text().splitlines()
    assert [json.loads(own)["status"] for own in lines] == ["ok", "endpoint"]
    # What was answered is not asked again; what failed is.
    assert _run("draw", tmp_path / "m", *flags, where) == 0
  assert len(asked) == 3
  lines = (tmp_path / "m" / "records.jsonl").read_text().splitlines()
  assert [json.loads(own)["status"] for own in lines] == ["ok", "ok"]


@pytest.mark.slow
def test_learn_writes_probes_and_goes_on(tmp_path, capsys):
  assert _run("learn", tmp_path / "l") == 0
  found = _read(tmp_path / "l", "probes.json")
  assert set(found) == {"random", "drawings", "dead_leaves", "supervised"}
  for row in found.values():
    assert 0 <= row["knn"] <= 1 and 0 <= row["linear"] <= 1
    assert len(row["by_seed"]) == 1
  assert "k-NN" in capsys.readouterr().out
  # All is kept; a pretraining fewer is another table of the same.
  assert _run("learn", tmp_path / "l", "--config.pretrainings=random") == 0
  assert _read(tmp_path / "l", "probes.json") == {"random": found["random"]}


@pytest.mark.slow
def test_learn_of_folders(tmp_path, capsys):
  rng = np.random.default_rng(0)
  folder = tmp_path / "pictures"
  for name in ("dark", "light"):
    (folder / name).mkdir(parents=True)
    for number in range(10):
      pixels = rng.integers(0, 100, (40, 40, 3)) + 150 * (name == "light")
      own = Image.fromarray(pixels.astype(np.uint8))
      own.save(folder / name / f"{number}.png")
  (folder / "dark" / "broken.png").write_bytes(b"no picture")
  small = "--config.neighbours=10", "--config.pretrainings=random"
  flags = (*small, f"--config.data={folder}", f"--config.source={folder}")
  assert _run("learn", tmp_path / "l", *flags) == 0
  found = _read(tmp_path / "l", "probes.json")
  assert set(found) == {"random", "source"}
  assert found["source"]["knn"] >= 0.8
  assert "left out" in capsys.readouterr().out
  (tmp_path / "empty").mkdir()
  empty = f"--config.data={tmp_path}/empty"
  assert _run("learn", tmp_path / "e", *small, empty) == 1
  assert "has no picture" in capsys.readouterr().err
  one = f"--config.data={folder}/dark"
  assert _run("learn", tmp_path / "o", *small, one) == 1
  assert "two classes or more" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("word", "flag", "complaint"),
  [
    ("draw", "languages=logo", "choose from"),
    ("draw", "levels=words", "choose from textures, shapes"),
    ("draw", "money=1", "money needs prices"),
    ("draw", "model=a", "model and endpoint go together"),
    ("improve", "defects=typo", "choose from"),
    ("explain", "caption=a red elephant", "elephant"),
    ("learn", "pretrainings=magic", "choose from"),
    ("learn", "queue=65", "multiple of batch_size"),
    ("learn", "data=/no/such/place", "no such folder"),
  ],
)
def test_bad_settings_are_named(word, flag, complaint, tmp_path, capsys,
                                embedded):  # fmt: skip
  more = ()
  if word == "explain":
    more = (f"--config.embedder_file={embedded}/embedder.msgpack",)
  assert _run(word, tmp_path / "x", f"--config.{flag}", *more) == 1
  assert complaint in capsys.readouterr().err
