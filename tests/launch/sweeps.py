"""Small sweeps for the tests of launchers, and the flags of these."""

import os
import pathlib

from absl import flags

from spex_jax import configs
from spex_jax.sweeps import grid, run
from tests.sweeps import small

_FILE = """
from tests.sweeps import small

def get_config():
  return small.config()

def sweep():
  yield {"scale": 1.0}
  yield {"scale": 2.0}
"""


def config(folder):
  """A sweep's file: six shards."""
  path = pathlib.Path(folder) / "sweep_small.py"
  path.write_text(_FILE)
  return str(path)


def do(workdir, config, index, count):
  """Evaluates one task, here and now."""
  file = configs.load(config, {})
  sweep = grid.freeze(file.config, file.items())
  found = run.Run(workdir, sweep, small.Sum)
  return found.run(index, count)


def given(module, *words):
  """The flags of a launcher, as it would get them."""
  values = flags.FlagValues()
  module.define_flags(values)
  values(["launcher", *words])
  return values


def fake(folder, monkeypatch, **programs):
  """Shell programs on the PATH, before all others."""
  folder.mkdir(exist_ok=True)
  for name, text in programs.items():
    place = folder / name
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
  monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
