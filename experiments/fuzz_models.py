"""Random checkpoints of every family, beside what transformers gives for them.

`make fuzz` makes them in the peers' environment (`third_party/fuzz_models.py`)
and then asks here, of each: is it right, refused by a message, or wrong? One
that is wrong, or that raises anything but a message, fails the run.

Shapes: B rows, P positions, V outputs.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import command
from spex_jax.models import hub

_FOLDER = flags.DEFINE_string("folder", None, "of checkpoints", required=True)
_UNIT = 2.0**-24  # Float32's rounding.
# A setting read wrongly moves logits by 1e-2: more than a tenth of that is no
# rounding, whatever the weights.
_MOST = 1e-3

_VERDICTS = ("right", "refused", "wrong")


class Answer(NamedTuple):
  """What came of one checkpoint: "right", "refused" or "wrong", and why.

  And by how much it is off, as a share of the largest logit, where it answers.
  """

  verdict: str
  why: str = ""
  gap: float = 0.0


def ask(folder: pathlib.Path) -> Answer:
  """Loads a checkpoint and compares its logits with the recorded ones."""
  with np.load(folder / "reference.npz") as file:
    arrays = dict(file)
  inputs = {
    name[3:]: value.astype(np.int32 if value.dtype.kind == "i" else np.float32)
    for name, value in arrays.items()
    if name.startswith("in_")
  }
  expected = arrays["out_logits"].astype(np.float64)
  try:
    net = hub.load(folder)
  except ValueError as error:
    return Answer("refused", str(error))
  run = jax.jit(net.apply)
  logits = lambda params: np.asarray(run(params, **inputs).logits, np.float64)
  got = logits(net.params)
  if got.shape != expected.shape:
    return Answer("wrong", f"shape {got.shape}, not {expected.shape}")
  mask = inputs.get("attention_mask")
  if mask is None or got.shape[:2] != mask.shape:
    mask = np.ones(got.shape[:1])
  largest = np.abs(expected[mask > 0]).max()
  apart = lambda x, y: float(np.abs((x - y)[mask > 0]).max() / largest)
  gap = apart(got, expected)
  rounding = apart(got, logits(_rounded(net.params)))
  # Both sides round, and not their sums alone: norms, softmax and activations
  # once more. In the end each logit is rounded.
  rtol = min(4 * rounding + 4 * _UNIT, _MOST)
  told = f"{gap:.1e} of the largest logit; roundings may make {rtol:.1e}"
  return Answer("right" if gap <= rtol else "wrong", f"off by {told}", gap)


def _rounded(params: Any) -> Any:
  """Weights that are off by as much as roundings of the run amount to.

  A sum of d products in float32 is the exact one of weights that are off by
  some parts of sqrt(d) 2^-24, and of d 2^-24 at the worst (Higham and Mary
  2019, theorem 3.1; backward errors), in whatever order it is taken. Each
  weight is moved so far, up or down by chance: what that does to the logits is
  what depth, widths and the scores of attention make of roundings.
  """
  rng = np.random.default_rng(0)
  leaves = jax.tree.leaves(params)
  size = np.sqrt(max(max(leaf.shape) for leaf in leaves)) * _UNIT
  move = lambda x: x * (1 + size * rng.choice([-1.0, 1.0], x.shape))
  return jax.tree.map(
    lambda x: move(np.asarray(x, np.float64)).astype(np.float32), params
  )


def main(argv: Sequence[str]) -> None:
  """Asks of every checkpoint, and prints a row for each family."""
  del argv
  counts: dict[str, dict[str, int]] = {}
  largest: dict[str, float] = {}
  for folder in sorted(pathlib.Path(_FOLDER.value).iterdir()):
    family = folder.name.rpartition("_")[0]
    answer = ask(folder)
    row = counts.setdefault(family, dict.fromkeys(_VERDICTS, 0))
    row[answer.verdict] += 1
    if answer.verdict == "right":
      largest[family] = max(largest.get(family, 0.0), answer.gap)
    else:
      print(f"{folder.name}: {answer.verdict}: {answer.why}", flush=True)
  for family, row in counts.items():
    print(
      f"{family:12} {row['right']:3} right, {row['refused']:3} "
      f"refused, {row['wrong']:3} wrong; largest gap "
      f"{largest.get(family, float('nan')):.1e}"
    )
  if any(row["wrong"] for row in counts.values()):
    sys.exit("Some checkpoints came out wrong.")


if __name__ == "__main__":
  command.start(main)
