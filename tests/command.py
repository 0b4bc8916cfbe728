"""Runs the command in this process, as the console script calls it."""

import pathlib

import spex_jax
from spex_jax import cli

ROOT = pathlib.Path(spex_jax.__file__).resolve().parent.parent


def done(capsys, *arguments):
  """What a command prints that ends well, and complains of nothing."""
  code, out, err = run(capsys, *arguments)
  assert (code, err) == (0, ""), (code, err)
  return out


def refused(capsys, *arguments):
  """The one line that a command ends with that cannot be done."""
  code, _, err = run(capsys, *arguments)
  assert code == 1, (code, err)
  assert err.startswith("spex: error: ") and err.count("\n") == 1, err
  assert err.strip().isprintable() and "Traceback" not in err, err
  return err.strip()


def run(capsys, *arguments):
  """Exit code, stdout and stderr of one command."""
  capsys.readouterr()
  code = cli.main(list(arguments))
  out, err = capsys.readouterr()
  return code, out, err
