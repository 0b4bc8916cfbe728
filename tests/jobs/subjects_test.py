"""Networks of `spex explain`: trained once, restored, or refused in a line."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from spex_jax import cli
from spex_jax.fourier import sparse
from tests import command


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
  """A workdir in which `digits:quick` has run once."""
  workdir = tmp_path_factory.mktemp("digits")
  assert (
    cli.main(["explain", "--config=digits:quick", f"--workdir={workdir}"]) == 0
  )
  return workdir


def _check_files(workdir, n):
  explanation = json.loads((workdir / "explanation.json").read_text())
  assert explanation["n"] == n and len(explanation["names"]) == n
  fourier = sparse.SparseFourier.load(workdir / "fourier.json")
  assert fourier.n == n and int(fourier.count) >= 1
  assert (workdir / "figure.png").read_bytes().startswith(b"\x89PNG")
  return explanation, fourier


@pytest.mark.slow
def test_digits(digits_run, capsys):
  explanation, _ = _check_files(digits_run, 4)
  # 2 x 2 patches of 4 x 4 pixels: all 16 masks fit in the budget.
  assert explanation["num_evaluations"] == 16
  assert explanation["faithfulness"] == pytest.approx(1.0)
  out = command.done(
    capsys, "explain", "--config=digits:quick", "--config.image=3",
    "--config.baseline=resample", "--config.target=margin",
    f"--workdir={digits_run}",
  )  # fmt: skip
  assert f"restored from {digits_run / 'model'}" in out
  for word in ("asked", "value", "budget", "cost", "faithfulness", "wrote"):
    assert f"\n{word} " in f"\n{out}", word
  assert "r0c0" in out and "logit" in out and "compile" in out


def test_a_model_of_another_configuration_is_refused(digits_run, capsys):
  line = command.refused(
    capsys,
    "explain",
    "--config=digits:quick",
    "--config.training.learning_rate=0.01",
    f"--workdir={digits_run}",
  )
  assert "another configuration: training.learning_rate differ" in line


def test_a_damaged_model_is_refused(digits_run, tmp_path, capsys):
  workdir = tmp_path / "copy"
  shutil.copytree(digits_run, workdir)
  victim = next((workdir / "model" / "state" / "d").iterdir())
  data = bytearray(victim.read_bytes())
  data[0] ^= 1
  victim.write_bytes(data)
  line = command.refused(
    capsys, "explain", "--config=digits:quick", f"--workdir={workdir}"
  )
  assert "is damaged" in line and "Remove it, or choose" in line


@pytest.mark.parametrize(
  ("where", "message"),
  [
    ("manifest", "is damaged: manifest.json cannot be read"),
    ("file", "is a file, not a checkpoint"),
    ("seed", "another configuration: seed differs."),
  ],
)
def test_a_model_that_cannot_be_used_names_the_remedy(
  digits_run, tmp_path, capsys, where, message
):
  workdir = tmp_path / "copy"
  shutil.copytree(digits_run, workdir)
  if where == "manifest":
    (workdir / "model" / "manifest.json").write_text("{")
  elif where == "file":
    shutil.rmtree(workdir / "model")
    (workdir / "model").write_text("")
  line = command.refused(
    capsys,
    "explain",
    "--config=digits:quick",
    f"--config.seed={int(where == 'seed')}",
    f"--workdir={workdir}",
  )
  assert message in line and "Remove it, or choose another directory" in line
  assert str(workdir / "model") in line and "--workdir" in line


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path):
  """The system's own refusal to write more, met by Orbax in its threads."""
  code = (
    "import resource, signal, sys; from spex_jax import cli;"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
    "cli.run()"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, "explain", "--config=digits:quick"]
    + [f"--workdir={tmp_path / 'w'}"],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(command.ROOT)},
  )
  assert done.returncode == 1, done.stderr
  # Native threads of Orbax may write before it; the last word is ours.
  assert (
    f"{tmp_path / 'w' / 'model'} could not be saved: File too"
    in (done.stderr.splitlines()[-1])
  )
  assert os.listdir(tmp_path / "w") == []
