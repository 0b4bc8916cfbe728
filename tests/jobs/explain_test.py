"""Tests of the job of `spex explain`: its methods, and budgets by target."""

import pytest

from spex_jax import cli, configs
from spex_jax.jobs import explain as job
from spex_jax.jobs import subjects


def _config(**changes):
  own = {"function": "target_functions:value", "n": 12}
  return cli.load_config("callable:quick", changes=own | changes)


def test_help_names_every_method(capsys):
  assert cli.main(["explain", "--help"]) == 0
  text = capsys.readouterr().out
  offered = " ".join(text.partition("method='auto'")[2].split())[:600]
  for method in subjects.METHODS:
    assert method in offered
  names = configs.named("explain")
  assert text.count("target_faithfulness=None") == len(names)


def test_a_target_stops_the_asking(tmp_path, monkeypatch):
  (tmp_path / "target_functions.py").write_text(
    "def value(masks):\n  return 2.0 * masks[:, 0] - masks[:, 1]\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  config = _config(method="lasso", budget=600, target_faithfulness=0.9)
  lines = []
  answer = job.run(config, tmp_path / "run", show=lines.append)
  assert answer.num_evaluations < 600 and answer.faithfulness >= 0.9
  assert any("0.9 was reached" in str(note) for note in answer.notes)
  assert len(lines) > 3 and (tmp_path / "run" / "figure.png").exists()


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      {"target_faithfulness": 0.9, "method": "spex"},
      "target_faithfulness=0.9: SPEX asks for a plan of one size; choose",
    ),
    (
      {"target_faithfulness": 0.9, "method": "integrated_gradients"},
      "integrated_gradients has masks of one size; choose",
    ),
  ],
)
def test_targets_are_refused_before_any_work(changes, message):
  with pytest.raises(ValueError, match=message):
    _config(**changes)


def test_a_target_on_the_command_line(tmp_path, capsys):
  code = cli.main(
    [
      "explain",
      "--config=digits",
      "--config.target_faithfulness=0.9",
      f"--workdir={tmp_path}",
    ]
  )
  captured = capsys.readouterr()
  assert code == 1 and captured.out == ""
  assert "choose --config.method=auto" in captured.err
