"""Random checkpoints of every family, beside what transformers gives for them.

`make fuzz` makes them in the peers' environment (`third_party/fuzz_models.py`)
and then asks here, of each: is it right, refused by a message, or wrong? One
that is wrong, or that raises anything but a message, fails the run.

Shapes: B rows, P positions, V outputs.
"""

import pathlib
import sys
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from spex_jax.models import hub

_FOLDER = flags.DEFINE_string("folder", None, "of checkpoints", required=True)
# Float32 on both sides, in other orders of summation, through up to 3 blocks
# whose weights are much larger than trained ones: 16 roundings of 2^-24 in
# units of the largest logit are 1e-6; scores of attention amplify them. Of
# 108 checkpoints the largest gap was 5e-6; a setting read wrongly gives 1e-2.
_RTOL = 2e-5


_VERDICTS = ("right", "refused", "wrong")


class Answer(NamedTuple):
  """What came of one checkpoint: "right", "refused" or "wrong", and why."""

  verdict: str
  why: str = ""


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
  out = jax.jit(net.apply)(net.params, **inputs)
  got = np.asarray(out.logits, np.float64)
  if got.shape != expected.shape:
    return Answer("wrong", f"shape {got.shape}, not {expected.shape}")
  mask = inputs.get("attention_mask")
  if mask is not None and got.shape[:2] == mask.shape:
    got, expected = got[mask > 0], expected[mask > 0]
  gap = float(np.abs(got - expected).max() / np.abs(expected).max())
  if not gap <= _RTOL:
    return Answer("wrong", f"off by {gap:.1e} of the largest logit")
  return Answer("right", f"{gap:.1e}")


def main(argv: list[str]) -> None:
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
      largest[family] = max(largest.get(family, 0.0), float(answer.why))
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
  app.run(main)
