"""What the tests on real engines share: a sweep of retrainings, disturbed."""

import os
import pathlib
import subprocess
import sys
import time

from launch import local
from spex_jax.sweeps import state
from tests.sweeps import crash_test

ROOT = crash_test._ROOT
CONFIG = crash_test._CONFIG
# Ridge regressions compile in a second; many small shards leave room to kill.
SETTINGS = (
  "--config.model.kind=ridge",
  "--config.rows=600",
  "--config.rows_per_shard=2",
)
SHARDS = 600
LIMIT = 240.0  # Seconds that one wait may take.


def undisturbed(workdir):
  """Bytes of all shards, made by one process."""
  words = local.command(CONFIG, str(workdir), 0, 1, SETTINGS)
  subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
  assert state.status(workdir).shards == SHARDS
  return crash_test._bytes(workdir)


class Launched:
  """A launcher at work."""

  def __init__(self, module, workdir, *words, environment=None):
    self.workdir = pathlib.Path(workdir)
    self.process = subprocess.Popen(
      [
        sys.executable, "-m", f"launch.{module}", f"--config={CONFIG}",
        f"--workdir={workdir}", "--poll=0.5", *words, "--", *SETTINGS,
      ],
      cwd=ROOT, env=os.environ | (environment or {}), text=True,
      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip

  def published(self):
    """Shards, and what would change if one were written again."""
    return crash_test._published(self.workdir)

  def until(self, count):
    """Waits until so many shards are there; they are acknowledged then."""
    wait(lambda: len(self.published()) >= count, self.process)
    return self.published()

  def end(self):
    """Exit code, and what it said."""
    _, said = self.process.communicate(timeout=LIMIT)
    return self.process.returncode, said

  def kill(self):
    """At once; may be called again."""
    self.process.kill()
    self.process.wait()
    assert self.process.stderr is not None
    self.process.stderr.close()


def wait(ready, process=None):
  """Waits for something, while a process lives."""
  deadline = time.monotonic() + LIMIT
  while not ready():
    assert time.monotonic() < deadline, "nothing comes any more"
    assert process is None or process.poll() is None, process.communicate()[1]
    time.sleep(0.02)


def check(workdir, whole, acknowledged):
  """All is there, of the right bytes; what was acknowledged was kept."""
  found = state.verify(workdir)
  assert (found.sound, found.damaged, found.missing) == (SHARDS, {}, 0)
  left = crash_test._bytes(pathlib.Path(workdir))
  # What a kill leaves of a shard in flight has a name of its own.
  rest = {name for name in left if name.startswith(".")}
  assert {name: left[name] for name in left.keys() - rest} == whole
  assert acknowledged.items() <= crash_test._published(workdir).items()


def processes(*parts, below=None):
  """Numbers of processes whose command has all of these parts.

  Args:
    *parts: of the command.
    below: number of an ancestor, or None.
  """
  listed = subprocess.run(
    ["ps", "-e", "-ww", "-o", "pid=,ppid=,args="],
    capture_output=True, text=True, check=True,
  ).stdout  # fmt: skip
  rows = [line.split(maxsplit=2) for line in listed.splitlines()]
  parents = {int(pid): int(parent) for pid, parent, *_ in rows}

  def descends(pid):
    while pid in parents:
      pid = parents[pid]
      if pid == below:
        return True
    return False

  return [
    int(row[0])
    for row in rows
    if len(row) == 3
    and all(part in row[2] for part in parts)
    and (below is None or descends(int(row[0])))
  ]
