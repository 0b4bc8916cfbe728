"""Own tables on the command."""

import json
import re
import sys

import numpy as np
import pytest

from spex_jax import settings
from spex_jax.jobs import table_rows
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
    out = command.done(
      capsys, "explain", "--config=tabular:quick", f"--config.table={path}",
      f"--config.target_column={target}", f"--config.model.kind={kind}",
      "--config.row=3", f"--workdir={workdir}",
    )  # fmt: skip
    assert all(word in out for word in words) and str(path) in out, out
    explanation = json.loads((workdir / "explanation.json").read_text())
    assert explanation["n"] == 3 and explanation["num_evaluations"] == 8
    faith = explanation["faithfulness"]
    assert faith == pytest.approx(1.0), (kind, target, out)
  line = command.refused(
    capsys, "explain", "--config=tabular:quick", "--config.target_column=a"
  )
  assert "target_column='a' is for a .csv file; 'wine'" in line


def test_a_class_of_the_current_folder_is_found(tmp_path, monkeypatch):
  source = "from sklearn.linear_model import LogisticRegression as Mine\n"
  (tmp_path / "my_own_model.py").write_text(source)
  monkeypatch.chdir(tmp_path)
  # As of a console script, which does not search it.
  monkeypatch.setattr(sys, "path", [x for x in sys.path if x])
  monkeypatch.delitem(sys.modules, "my_own_model", raising=False)
  table = tmp_path / "mine.csv"
  rows = [f"{i % 4},{i % 5}.5,{'ab'[i % 2]}" for i in range(40)]
  table.write_text("\n".join(["a,b,y", *rows]))
  changes = {"model.kind": "my_own_model:Mine", "row": 1}
  assert _asked(table, tmp_path / "w", **changes).names


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
  line = command.refused(capsys, *arguments)
  assert "another configuration: data differs" in line


def _clock(tmp_path, first=1_700_000_000):
  """A table whose answer is in its clock: late if after 70 seconds."""
  seconds = np.random.default_rng(1).permutation(100)
  path = tmp_path / "clock.csv"
  rows = [f"{first + s},{i % 7}.5,{int(s > 70)}" for i, s in enumerate(seconds)]
  path.write_text("\n".join(["when,b,late", *rows]))
  return path, seconds


def _asked(path, tmp_path, **changes):
  changes = {"table": str(path)} | changes
  return table_rows.subject(
    settings.changed(table_rows.Table(), changes), tmp_path
  )


@pytest.mark.parametrize(
  "kind",
  [
    "boosting",
    "sklearn.tree:DecisionTreeClassifier",
    "sklearn.ensemble:RandomForestClassifier",
    "sklearn.linear_model:RidgeClassifierCV",
    "mlp",
  ],
)
def test_a_clock_is_told_apart(tmp_path, kind):
  path, seconds = _clock(tmp_path)
  row = int(np.argmax(seconds))  # Late, which the mean is not.
  subject = _asked(path, tmp_path / kind, **{"model.kind": kind, "row": row})
  right = float(re.search(r"([\d.]+)% of", subject.facts["model"])[1])
  assert right >= 84, subject.facts
  assert f"when={1_700_000_099}, b={row % 7}.5" in subject.notes[0]
  # The clock moves the answer, the noise hardly does.
  masks = np.array([[1, 1], [0, 1], [1, 0]], bool)
  both, noise, clock = subject.evaluator(masks)
  assert abs(both - noise) > abs(both - clock)


def test_a_column_that_float32_merges_is_refused(tmp_path):
  path, _ = _clock(tmp_path)
  path.write_text(path.read_text() + "\n1e15,1.5,0")
  for kind in ("boosting", "mlp"):
    with pytest.raises(ValueError, match="Column 'when' has 101 distinct"):
      _asked(path, tmp_path / kind, **{"model.kind": kind})
  _asked(path, tmp_path, **{"model.kind": "sklearn.svm:LinearSVC"})


@pytest.mark.slow
def test_a_response_beside_an_offset_is_centred(tmp_path):
  """Clocks, which float32 merges, and what it would swallow the digits of."""

  def asked(offset):
    path = tmp_path / f"{offset}.csv"
    rows = [f"{s},{offset + 0.5 + 3 * s}" for s in range(100)]
    path.write_text("\n".join(["a,arrives", *rows]))
    changes = {"model.kind": "mlp", "row": 99}
    subject = _asked(path, tmp_path / f"{offset}", **changes)
    score = float(re.search(r"R2 (-?[\d.]+)", subject.facts["model"])[1])
    masks = np.array([[True], [False]])
    return subject.facts["value"], score, np.asarray(subject.evaluator(masks))

  value, score, (row, mean) = asked(0)
  assert value.startswith("response;")
  for offset in (1_000_000, 1_700_000_000):
    # The same standardised numbers are learned, to float32's rounding: a part
    # in 2^24, which some hundreds of steps may raise to the third digit.
    value, other, (one, all_absent) = asked(offset)
    assert value.startswith(f"response less {str(offset)[:4]}")
    assert other == pytest.approx(score, abs=2e-3)
    assert one - all_absent == pytest.approx(row - mean, rel=2e-3)


def test_a_row_is_that_of_the_file(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text(
    "id,a,y\n" + "".join(f"{i},{i}.25,{i % 2}\n" for i in range(40))
  )
  for suffix in ("csv", "npz"):
    seen = set()
    for row in (0, 3, 17, 39):
      table = path
      if suffix == "npz":
        table = tmp_path / "rows.npz"
        x = np.stack([np.arange(40), np.arange(40) + 0.25], 1)
        np.savez(table, x=x, y=np.arange(40) % 2, columns=["id", "a"])
      subject = _asked(table, tmp_path, **{
        "row": row, "model.kind": "sklearn.linear_model:LogisticRegression",
      })  # fmt: skip
      (note,) = subject.notes
      assert f"row {row} of {table}, " in note
      assert f": id={row}, a={row}.25; target {row % 2}." in note
      assert f"Which columns of row {row} of " in subject.question
      seen.add("unseen in training" in note)
    assert seen == {True, False}
  with pytest.raises(ValueError, match="row=40: .*rows.csv has rows 0 to 39"):
    _asked(path, tmp_path, row=40)


def test_the_row_is_saved_with_the_answer(tmp_path, capsys):
  path = tmp_path / "rows.csv"
  path.write_text(
    "id,a,y\n" + "".join(f"{i},{i}.25,{i % 2}\n" for i in range(40))
  )
  out = command.done(
    capsys, "explain", "--config=tabular:quick", f"--config.table={path}",
    "--config.row=3", f"--workdir={tmp_path / 'w'}",
  )  # fmt: skip
  saved = json.loads((tmp_path / "w" / "explanation.json").read_text())
  assert "id=3, a=3.25; target 1" in saved["notes"][0]
  assert "id=3, a=3.25" in " ".join(out.split())
