"""Tests of `spex attribute data`: end to end, resumed, refused."""

import json

import numpy as np
import pytest

from spex_jax import cli, configs
from spex_jax.datasets import labelled
from spex_jax.influence import corners, valuations
from spex_jax.jobs import attribute, report, retraining
from tests import command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The quick command, run once: its workdir, lines and answer."""
  workdir = tmp_path_factory.mktemp("attribute")
  lines = []
  answer = attribute.run(_config(), workdir, show=lines.append)
  return workdir, [line for line in lines if isinstance(line, str)], answer


def _config(name="data_digits:quick", **changes):
  changes = {key.replace("__", "."): value for key, value in changes.items()}
  return cli.load_config(name, "attribute", changes)


def test_the_command_writes_and_says_everything(finished):
  workdir, lines, answer = finished
  said = "\n".join(lines)
  for start in (
    "asked", "data", "model", "budget", "cost", "LDS", "R2", "sets",
  ):  # fmt: skip
    assert sum(line.startswith(start) for line in lines) == 1, start
  assert "ceiling 0." in said and "sets survive over 2 seeds" in said
  body = json.loads((workdir / "attribution.json").read_text())
  np.testing.assert_array_equal(body["scores"], answer.scores.scores)
  assert len(body["names"]) == 24 and len(body["points"]) == 2
  assert body["lds"] == answer.lds.mean
  assert (workdir / "figure.png").read_bytes().startswith(b"\x89PNG")
  kinds = [view["kind"] for view in report.read(workdir)[0].views]
  assert {*kinds} == {"sets", "table", "image"}
  # Every corner, seed and fresh subset is in the bank.
  checks = answer.checks
  assert isinstance(checks, corners.Report) and 2 <= len(checks.rows) <= 4
  rows = 200 + 2 * (32 + checks.num_masks)
  assert answer.num_rows == answer.num_trained == rows


def test_scores_predict_fresh_subsets(finished):
  _, _, answer = finished
  # 200 samples of 24 nearly additive players: far from chance, and from 1.
  assert 0.6 < answer.lds.mean <= 1
  assert answer.r2.mean() > 0.5
  helpful = answer.scores.helpful(0, 1)[0]
  harmful = answer.scores.harmful(0, 1)[0]
  scores, std = answer.scores.scores[0], answer.scores.std[0]
  assert scores[helpful] > 2 * std[helpful]
  assert scores[harmful] < -2 * std[harmful]


def test_a_second_run_trains_nothing_and_says_the_same(finished):
  workdir, _, first = finished
  lines = []
  again = attribute.run(_config(), workdir, show=lines.append)
  assert again.num_trained == 0 and again.num_rows == first.num_rows
  np.testing.assert_array_equal(again.scores.scores, first.scores.scores)
  assert again.lds.mean == first.lds.mean
  assert any("no model trained, all" in str(line) for line in lines)


@pytest.mark.slow
def test_a_larger_budget_trains_only_what_is_new(finished):
  workdir, _, first = finished
  # No sets: their corners would be others.
  config = _config(budget=210, method="banzhaf", checked=0)
  more = attribute.run(config, workdir, show=lambda line: None)
  assert more.num_trained == 10 and more.checks is None
  assert more.scores.method == "Banzhaf (MSR)"
  assert more.num_rows == first.num_rows + 10


def test_another_configuration_is_refused(finished):
  workdir, _, _ = finished
  for changes, message in [
    ({"training__num_epochs": 5}, r"configuration: learner.num_epochs differs"),
    ({"num_train": 20}, r"configuration: data, players differ"),
    ({"seed": 1}, r"configuration: data, key, test differ"),
  ]:
    with pytest.raises(ValueError, match=message):
      attribute.run(_config(**changes), workdir, show=lambda line: None)


@pytest.fixture
def files(tmp_path, monkeypatch):
  """Files of data, good and bad, in the current directory."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(40, 3)).astype("f4")
  y = (x[:, 0] + 0.5 * rng.normal(size=40) > 0).astype(int)
  hole = x.copy()
  hole[7, 1] = np.nan
  arrays = {
    "good": {"x": x[:30], "y": y[:30], "x_test": x[30:], "y_test": y[30:]},
    "no_x": {"y": y},
    "nan": {"x": hole, "y": y},
    "named": {"x": x, "y": 2 * y, "classes": np.array(["no", "yes"])},
    "one": {"x": x, "y": np.zeros(40, int)},
    "floats": {"x": x, "y": y + 0.5},
    "half": {"x": x, "y": y, "x_test": x},
  }
  for name, some in arrays.items():
    np.savez(tmp_path / f"{name}.npz", **some)
  (tmp_path / "text.npz").write_text("no arrays")
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data_cancer", "data_all_digits"])
def test_other_configurations_run(name, tmp_path):
  answer = attribute.run(
    _config(f"{name}:quick", budget=60, checked=2), tmp_path, lambda *_: None
  )
  assert np.isfinite(answer.lds.mean) and answer.num_trained > 60
  assert (tmp_path / "figure.png").exists()


@pytest.mark.slow
def test_a_table_of_ones_own_solved_outright(files, capsys):
  """Groups of its examples, by logistic regression; bars as a figure."""
  out = command.done(
    capsys, "attribute", "data", "--config=data_file:quick",
    "--config.data=good.npz", "--config.model.kind=logistic",
    "--config.players=clusters", "--config.num_clusters=6",
    "--config.method=influence", "--config.num_seeds=1",
  )  # fmt: skip
  assert "6 clusters of 30 training examples" in out, out
  assert "ceiling not measured (one seed)" in out
  workdir = files / "runs" / "data_file-quick"
  assert (workdir / "figure.png").read_bytes().startswith(b"\x89PNG")
  body = json.loads((workdir / "attribution.json").read_text())
  assert body["method"] == "influence functions"
  assert np.shape(body["scores"]) == (2, 6)
  # All 64 subsets are listed; those of one class are left out.
  assert "left out" in out and 1 > body["lds"] > 0.3


def test_ridge_takes_a_response(files, capsys):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(24, 3))
  y = x @ [1.0, -2.0, 0.5] + rng.normal(size=24)
  np.savez(files / "response.npz", x=x, y=y)
  own = ["--config=data_file:quick", "--config.data=response.npz",
         "--config.model.kind=ridge", "--config.num_train=16",
         "--config.num_test=4", "--config.num_seeds=1", "--config.budget=40",
         "--config.fresh=8", "--config.checked=0", "--config.method=banzhaf",
         "--config.decoder=lasso"]  # fmt: skip
  out = command.done(capsys, "attribute", "data", *own)
  assert "move the prediction at 4 test points" in out
  assert "a response, " in out and "of the right class" not in out
  line = command.refused(capsys, "attribute", "data", *own,
                         "--config.players=classes")  # fmt: skip
  assert "a response has none" in line
  problem = retraining.problem_of(
    _config(
      "data_file:quick", data=str(files / "response.npz"), model__kind="ridge",
      num_train=16, num_test=4,
    )
  )  # fmt: skip
  masks = np.random.default_rng(1).random((3, 16)) < 0.6
  found = problem.retrainer(masks)
  features = np.c_[problem.data["x"], np.ones(16)].astype(np.float64)
  test = np.c_[problem.test_data["x"], np.ones(4)]
  penalty = np.diag([1.0, 1.0, 1.0, 0.0])
  for mask, values in zip(masks, np.asarray(found)):
    kept, target = features[mask], problem.data["y"][mask]
    theta = np.linalg.solve(kept.T @ kept + penalty, kept.T @ target)
    # Float32 throughout, of four well scaled columns.
    np.testing.assert_allclose(values, test @ theta, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "has two words, data and components; got ''"),
    (["model"], "got 'model': say `spex attribute data`"),
    (["data", "more"], "unexpected argument 'more'"),
    (["data", "--config=digits"], "no configuration 'digits': neither a file"),
    (["data", "--config.method=magic"], "method=magic: choose from datamodel"),
    (["data", "--config.points=1,x"], "give rows of the data, as in 0,3,5"),
    (["data", "--config.points=3,0"], "digits has no row 0 of classes 3,8"),
    (["data", "--config.classes=3,x"], "classes=3, x: choose distinct ones"),
    (["data", "--config.classes=3"], "are all of class 3; two classes are ne"),
    (["data", "--config.num_train=999"], "325 examples are left beside"),
    (["data", "--config.num_test=999"], "num_test=999: there are 357 examples"),
    (["data", "--config.players=classes"], "Of 2 players, 1 subsets can be"),
    (
      ["data", "--config.method=tracin", "--config.model.kind=ridge"],
      "method=tracin needs model.kind=mlp or transformer; got ridge",
    ),
    (
      ["data", "--config.training.batch_size=512"],
      "batch_size=512 exceeds the 200 examples",
    ),
    (["data", "--config.data=gone.npz"], "'gone.npz' is no file"),
    (["data", "--config.data=dogs"], "data='dogs': choose from digits"),
    (["data", "--config.data=text.npz"], "text.npz holds no arrays"),
    (["data", "--config.data=no_x.npz"], "no_x.npz lacks x; it holds y"),
    (["data", "--config.data=nan.npz"], "1 examples hold NaN or infinity (fir"),
    (["data", "--config.data=named.npz"], "y must lie in 0..1, the classes"),
    (["data", "--config.data=floats.npz"], "regression takes one, --config.mo"),
    (["data", "--config.data=half.npz"], "x_test and y_test go together"),
    (
      ["data", "--config=data_file:quick", "--config.data=one.npz"],
      "The 40 training examples are all of class 0; two classes are needed",
    ),
  ],
)
def test_bad_input_is_one_line(files, capsys, arguments, message):
  assert message in command.refused(capsys, "attribute", *arguments)
  assert not (files / "runs").exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"method": "tracin", "training__schedule": "cosine"},
      "training.schedule=constant; got cosine",
    ),
    (
      {"method": "metagradient", "training__eps_root": 0.0},
      "needs training.eps_root above 0",
    ),
    (
      {"method": "metagradient", "model__kind": "convnet"},
      "needs model.kind=mlp or transformer",
    ),
    ({"num_train": 1}, "num_train=1: must be 2 or more, or 0 for all"),
  ],
)
def test_methods_say_what_they_need(changes, message):
  with pytest.raises(ValueError, match=message):
    _config(**changes)


def test_help_lists_what_there_is(capsys):
  out = command.done(capsys, "attribute", "data", "--help")
  for name in configs.named("attribute"):
    assert f"\n  {name}\n" in out
  for word in (*valuations.METHODS, *retraining.PLAYERS, "\n    budget=4000 "):
    assert word in out
  assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
def test_contexts_with_a_diverged_corner_are_left_out(finished, monkeypatch):
  """What was found stands, and so does what the other contexts measure."""
  workdir, _, before = finished
  ask = attribute.banks.Bank.ask
  broken = 1  # Contexts whose first corner diverges under the second seed.

  def failing(self, masks, seeds=None):
    values = ask(self, masks, seeds)
    if len(masks) == len(before.checks.rows) * 4 * 8:  # Of all corners.
      values = values.copy()
      values[np.arange(broken) * len(masks) // 8, 1] = np.nan
    return values

  monkeypatch.setattr(attribute.banks.Bank, "ask", failing)
  answer = attribute.run(_config(), workdir, show=lambda *_: None)
  assert before.checks.num_contexts == 8 and answer.checks.num_contexts == 7
  broken = 8
  lines = []
  answer = attribute.run(_config(), workdir, show=lines.append)
  assert answer.checks is None and answer.lds.mean > 0.6
  assert any("fewer than two contexts" in str(x) for x in lines)


def test_points_are_rows_of_the_data():
  drawn = retraining.problem_of(_config()).test.rows.tolist()
  # Of those that are drawn anyway nothing changes; another is taken in.
  same = retraining.problem_of(_config(points=f"{drawn[2]},{drawn[0]}"))
  assert same.test.rows.tolist() == drawn
  train = retraining.problem_of(_config()).train.rows.tolist()
  problem = retraining.problem_of(_config(points=f"{train[5]},{drawn[1]}"))
  rows = problem.test.rows.tolist()
  assert len(rows) == len(drawn) and {train[5], drawn[1]} <= set(rows)
  assert not set(rows) & set(problem.train.rows.tolist())
  digits, _ = labelled.load("digits")
  place = rows.index(train[5])
  np.testing.assert_array_equal(
    problem.test_data["x"][place], digits.x[train[5]].ravel().astype("f4")
  )
