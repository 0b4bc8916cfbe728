"""What loading takes of the memory: what is loaded, and a fifth of the file."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.models import checkpoints

# The peak of a process of its own, over what it had once everything that is
# needed is imported, compiled and warm. "5" sets the peak back to now.
_CODE = """
import pathlib, sys
import jax
from spex_jax.models import hub

def told(name):
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  (line,) = [line for line in lines if line.startswith(name + ":")]
  return int(line.split()[1]) << 10

small, large = sys.argv[1:]
jax.block_until_ready(hub.load(small).params)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = told("VmRSS")
net = hub.load(large)
jax.block_until_ready(net.params)
kept = sum(x.nbytes for x in jax.tree.leaves(net.params))
print(told("VmHWM") - before, kept)
"""


@pytest.mark.skipif(
  not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux"
)
def test_the_peak_is_a_fifth_over_the_file(tmp_path):
  # Its largest tensor is a fifth of it, as in small language models. Large
  # enough that tracing the network (10 MB) does not count.
  large = checkpoints.LLAMA | {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 16000,
  }  # fmt: skip
  checkpoints.make(tmp_path / "small", checkpoints.LLAMA)
  folder, _ = checkpoints.make(tmp_path / "large", large)
  size = (folder / "model.safetensors").stat().st_size
  done = subprocess.run(
    [sys.executable, "-c", _CODE, str(tmp_path / "small"), str(folder)],
    capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2],
    # What is freed goes back, so that the peak is of what is held.
    env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  peak, kept = map(int, done.stdout.split())
  assert kept > 0.99 * size > 2e8
  assert peak <= 1.2 * size, peak / size
  assert peak > 0.8 * size  # What is loaded was measured.
