"""Runs the command in this process, as the console script calls it."""

import pathlib

import spex_jax
from spex_jax import cli

ROOT = pathlib.Path(spex_jax.__file__).resolve().parent.parent


def run(capsys, *arguments):
  """Exit code, stdout and stderr of one command."""
  capsys.readouterr()
  code = cli.main(list(arguments))
  out, err = capsys.readouterr()
  return code, out, err
