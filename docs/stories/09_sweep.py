"""
A sweep, killed and resumed
===========================

A sweep asks many questions, shard by shard, into a directory. It is killed in
the middle, without a chance to clean up, and the same command goes on.
"""

# %%
# A sweep is a Python file: settings, and what each item has in their place. The
# function that it asks is another file; both are frozen with it.

import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from matplotlib.figure import Figure

import spex_jax as spex
from spex_jax.store import folders
from spex_jax.sweeps import process_metrics, state

folder = tempfile.TemporaryDirectory()
work = pathlib.Path(folder.name)
(work / "slow.py").write_text("""
import time


def value(masks):
  time.sleep(0.002 * len(masks))  # A model takes its time.
  return 2.0 * masks[:, 0] + (masks[:, 1] & masks[:, 2]) - masks[:, 5]
""")
(work / "mine.py").write_text("""
import ml_collections


def get_config():
  return ml_collections.ConfigDict({
    "build": "spex_jax.jobs.sweeping:calls",
    "function": "slow:value",
    "n": 30,
    "keep": 0.5,
    "seed": 0,
    "num_targets": 1,
    "rows": 1000,
    "rows_per_shard": 50,
    "nan": "error",
    "retries": 0,
    "max_failed": 0.0,
  })


def sweep():
  for seed in range(2):
    yield {"seed": seed}
""")
command = [
  sys.executable,
  "-c",
  "from spex_jax import cli; cli.run()",
  "sweep",
  "run",
  "--config=mine.py",
  "--workdir=run",
]

# %%
# The first process is killed as soon as fifteen of 40 shards are there.

process = subprocess.Popen(
  command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
)
deadline = time.monotonic() + 50
while time.monotonic() < deadline and process.poll() is None:
  try:
    if state.status(work / "run").shards >= 15:
      break
  except (ValueError, OSError):  # Not begun yet.
    pass
  time.sleep(0.02)
process.send_signal(signal.SIGKILL)
process.wait()
killed = state.status(work / "run")
print(f"killed at {killed.shards} of {killed.num_shards} shards")

# %%
# The same command makes what is missing, and nothing twice. Every byte is then
# read and compared with its checksum.

done = subprocess.run(command, cwd=work, capture_output=True, text=True)
print(done.stdout.strip().splitlines()[-1])
print(state.verify(work / "run"))

# %%
# When which shard was published, by process.

entries = process_metrics.read(folders.opened(work / "run")).entries
entries = [entry for entry in entries if entry.get("event") == "shard"]
start = min(entry["time"] for entry in entries)
figure = Figure(figsize=(6.4, 3), layout="constrained")
axes = figure.subplots()
split = killed.shards
for part, color, label in (
  (entries[:split], "#2166ac", "first process, killed"),
  (entries[split:], "#b2182b", "the same command again"),
):
  times = [entry["time"] - start for entry in part]
  axes.plot(times, [e["shard"] for e in part], "o", color=color, label=label)
axes.set_xlabel("seconds")
axes.set_ylabel("shard")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)

# %%
# Rows are masks and values, which ``decode`` takes as they are.

samples = state.samples(work / "run", 0)
explanation = spex.decode(samples[0], np.asarray(samples[1]).reshape(-1))
print(explanation.interactions("FBII", order=2).top(5))
folder.cleanup()
