"""Own tables on the command."""

import json

import numpy as np
import pytest

from tests import command


@pytest.mark.slow
def test_tabular(tmp_path, capsys):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(60, 3))
  lines = [
    f"{a:.3f},{'yes' if a + b > 0 else 'no'},{b:.3f},{c:.3f}"
    for a, b, c in rows
  ]
  path = tmp_path / "mine.csv"
  path.write_text("\n".join(["a,answer,b,c", *lines]))
  for kind, target, words in (
    ("boosting", "answer", ("GradientBoostingClassifier", "decision value")),
    ("boosting", "c", ("GradientBoostingRegressor", "response")),
  ):
    if target == "c":  # A column of numbers only.
      text = path.read_text().replace("yes", "1").replace("no", "0")
      path.write_text(text)
    workdir = tmp_path / f"{kind}-{target}"
    code, out, err = command.run(
      capsys,
      "explain",
      "--config=tabular:quick",
      f"--config.table={path}",
      f"--config.target_column={target}",
      f"--config.model.kind={kind}",
      "--config.row=3",
      f"--workdir={workdir}",
    )
    assert (code, err) == (0, "")
    assert all(word in out for word in words) and str(path) in out, out
    explanation = json.loads((workdir / "explanation.json").read_text())
    assert explanation["n"] == 3 and explanation["num_evaluations"] == 8
    faith = explanation["faithfulness"]
    assert faith == pytest.approx(1.0), (kind, target, out)
  code, _, err = command.run(
    capsys,
    "explain",
    "--config=tabular:quick",
    "--config.target_column=a",
  )
  assert code == 1 and "target_column='a' is for a .csv file; 'wine'" in err


def test_scores_of_pairs_of_classes_are_refused(tmp_path, capsys):
  """Four classes have six pairs: a column of these is of no class."""
  path = tmp_path / "four.csv"
  rows = [f"{i % 4 + i / 100},{i % 5}.5,{'abcd'[i % 4]}" for i in range(60)]
  path.write_text("\n".join(["a,b,y", *rows]))
  for shape, code in (("ovo", 1), ("ovr", 0)):
    given = f"{{'decision_function_shape': '{shape}'}}"
    found, _, err = command.run(
      capsys,
      "explain",
      "--config=tabular:quick",
      f"--config.table={path}",
      "--config.model.kind=sklearn.svm:SVC",
      f"--config.model.arguments={given}",
      "--config.method=exact",
      f"--workdir={tmp_path / shape}",
    )
    assert found == code, err
    assert ("SVC gives (6,) scores for 4 classes" in err) == (shape == "ovo")


@pytest.mark.slow
def test_a_network_of_another_file_s_contents_is_refused(tmp_path, capsys):
  path = tmp_path / "mine.csv"
  rows = [f"{i % 7},{i % 5}.5,{i % 2}" for i in range(60)]
  path.write_text("\n".join(["a,b,y", *rows]))
  arguments = [
    "explain",
    "--config=tabular:quick",
    f"--config.table={path}",
    "--config.model.kind=mlp",
    f"--workdir={tmp_path / 'w'}",
  ]
  code, out, _ = command.run(capsys, *arguments)
  assert code == 0 and "MLP 2-32-2" in out
  path.write_text("\n".join(["a,b,y", *reversed(rows)]))
  code, _, err = command.run(capsys, *arguments)
  assert code == 1 and "another configuration: data differs" in err
