"""All that is asked of an accelerator, in one command of under nine minutes.

  python -m experiments.device_day --output=day.jsonl
  python -m experiments.device_day --config=quick   # a rehearsal, on any CPU

On a new device everything is tried once, part by part, each in a process of
its own under its own limit: one that fails, hangs or runs out of memory is a
line of the table and does not end the day. Rows are JSON lines, printed when
their part has ended; what it gave before its limit is kept.

  roofline  what this very device reaches: the rate of a product of bfloat16
            matrices of 8,192, and the bandwidth of an elementwise copy
  network   masks of GPT-2's shape at 512 tokens in bfloat16
            (`bench_networks`): half of the rate of plain products is asked
  circuits  EAP-IG of GPT-2's shape, and 100 circuits under one `vmap`
            (`bench_circuits`)
  retrain   Data Banzhaf's bank, and digits vmapped and looped (`bench_retrain`)
  decoders  boosted trees and the Gaussian process at 16,384 masks of a planted
            hierarchy of 100 players (`bench_decoders`)
  context   PECoRe at 2,000 tokens of context, a random network
            (`bench_context`)
  tests     correctness on this device, with float32 products of full precision:
            transforms, SPEX, trees, the process, the evaluator, sums of
            circuits; a few tests and a limit for each file, a row for each

The table has, for rows whose work is plain matrix products, Tflop/s of these
and their share of the measured bfloat16 rate; a forward with its backward
counts as three forwards, and what else a program does as nothing. Exit code 1
says that a part or a test failed.
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from absl import flags

from experiments import command, rows

Row = rows.Row
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_WHOLE_DAY = 530.0  # Seconds for all parts.
_LEAST = 10.0  # With less left a part is not begun.
_START = 10.0  # Of a process, before it measures.
# A few tests of each file, cheap ones first: what these leave of the time is
# the later ones'.
_TESTS = {
  "tests/fourier/transform_test.py": "definition or round_trip or vmap",
  "tests/ablate/evaluate_test.py": "order or company or many",
  "tests/proxies/boosting_test.py": "exhaustive or walk_the_trees",
  "tests/proxies/gaussian_test.py":
    "posterior or leave_one_out or gradient or inverts",
  "tests/circuits/identities_test.py": "logits_of_the_full",
  "tests/fourier/spex_test.py": "noiseless_is_exact and joint",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes; those of the benchmarks are theirs, by name.

  Attributes:
    sizes: a configuration of the benchmarks.
    product: the side of the square matrices of the roofline.
    copied: float32 entries of its copy.
    masks: that the decoders fit.
    tokens: of PECoRe's context.
    tests: files of tests, and which of them pytest is to choose (`-k`).
  """

  sizes: str = "full"
  product: int = 8192
  copied: int = 1 << 30
  masks: int = 16_384
  tokens: int = 2000
  tests: Mapping[str, str] = dataclasses.field(default_factory=_TESTS.copy)


CONFIGS = {
  "full": Config(),
  "quick": Config("quick", 64, 4096, 256, 24),
}
# Parts, and the seconds that each may take.
LIMITS = {
  "roofline": 40.0,
  "network": 70.0,
  "circuits": 120.0,
  "retrain": 50.0,
  "decoders": 70.0,
  "context": 70.0,
  "tests": 110.0,
}


def measured(name: str, config: Config) -> Iterator[Row]:
  """Yields the rows of a part; `work` is plain operations for one of a rate."""
  common = {"part": name}
  if name != "tests":  # Which need the device for themselves.
    common |= rows.common("device_day")
  for row in _PARTS[name](config):
    yield common | row


def _roofline(config: Config) -> Iterator[Row]:
  import jax
  import jax.numpy as jnp

  from experiments import bench_networks

  side = config.product
  rate = bench_networks.product_rate([(side, side, side)], jnp.bfloat16)
  work = 2 * side**3
  yield {
    "who": f"products of {side}, bfloat16", "products_per_s": rate / work,
    "work": work,
  }  # fmt: skip
  x = jnp.zeros(config.copied, jnp.float32)
  _, best = rows.seconds(jax.jit(jnp.negative), x, repeats=10)
  moved = 2 * x.nbytes / 1e9  # Read, and written.
  yield {"who": "copy, float32", "gb_per_s": round(moved / best, 1)}


def _network(config: Config) -> Iterator[Row]:
  from experiments import bench_networks

  own = bench_networks.CONFIGS[config.sizes]
  layers, width, heads, length = own.device
  made = bench_networks.shape(layers, width, heads, length, own.vocabulary)
  work = bench_networks.flops(made, length, last_only=True)
  row = bench_networks.on_device(own, rehearsed=config.sizes == "quick")
  yield row | {"work": work}


def _circuits(config: Config) -> Iterator[Row]:
  from experiments import bench_circuits, bench_networks

  own = bench_circuits.CONFIGS[config.sizes]
  made = bench_networks.shape(*own.large, own.length, own.vocabulary)
  forward = bench_networks.flops(made, own.length)
  # Both ends, and a forward with its backward at each step; one with cut edges.
  work = {
    "eap-ig, ours": (2 + 3 * bench_circuits.STEPS) * forward,
    "circuits, ours": own.judged_pairs * forward,
  }
  for only in ("eap-ig", "circuits"):
    for row in bench_circuits.run(own, {}, only=only):
      if row["who"] in work:
        yield row | {"work": work[row["who"]]}
      elif row["who"] != "peer":
        yield row


def _retrain(config: Config) -> Iterator[Row]:
  from experiments import bench_retrain

  own = bench_retrain.CONFIGS[config.sizes]
  # Parameters of products x batch x steps, thrice two operations.
  work = {
    "banzhaf": 6 * (48 * 100 + 100 * 2) * 32 * 4 * own.epochs[0],
    "loops": 6 * (64 * 32 + 32 * 10) * 50 * 6 * own.epochs[1],
  }
  for row in bench_retrain.run(own, ["banzhaf", "loops"]):
    who = ", ".join(filter(None, (row["row"], row.get("who"))))
    yield row | {"who": who, "work": work[row["row"]]}


def _decoders(config: Config) -> Iterator[Row]:
  from experiments import bench_decoders, games

  game = games.record(
    games.make("hierarchy100", 1), "hierarchy100", 1, config.masks, 2000
  )
  for method in ("proxyspex", "gaussian"):
    found = bench_decoders.ours(game, config.masks, method, repeats=1)
    yield {"who": f"{method}, {config.masks} masks"} | found


def _context(config: Config) -> Iterator[Row]:
  from experiments import bench_context, bench_networks

  own = bench_context.CONFIGS[config.sizes]
  own = dataclasses.replace(own, tokens=config.tokens)
  net = bench_context.random_network(own)
  for row in bench_context.run(own, net, "", kinds=["pecore"]):
    if "skipped" not in row:
      length = row["tokens"] + row["response"]
      # Two runs, and a forward and backward for each cue.
      forwards = 2 + 3 * row["cues"]
      yield row | {"work": forwards * bench_networks.flops(net.config, length)}


def _tests(config: Config) -> Iterator[Row]:
  settings = {
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    # Which tests would set, to compile sooner on a CPU.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    # Another process has nothing to leave free for.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
  }
  end = time.monotonic() + LIMITS["tests"] - _START
  for k, (path, chosen) in enumerate(config.tests.items()):
    begin = time.monotonic()
    # One that hangs takes its own share, and no later one's.
    limit = max(0.0, (end - begin) / (len(config.tests) - k))
    try:
      done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", path, "-k", chosen], cwd=_ROOT,
        env=os.environ | settings, capture_output=True, text=True, check=False,
        timeout=limit,
      )  # fmt: skip
      row = counted(path, done.stdout + done.stderr, done.returncode)
    except subprocess.TimeoutExpired:
      row = {"who": path, "fault": f"was stopped at its limit of {limit:.0f} s"}
    yield row | {"seconds": round(time.monotonic() - begin, 1)}


def counted(path: str, text: str, code: int) -> Row:
  """What pytest said of a file of tests."""
  row: Row = {"who": path, "passed": 0, "failed": 0}
  for number, name in re.findall(r"(\d+) (passed|failed|errors?)\b", text):
    row["passed" if name == "passed" else "failed"] += int(number)
  if code:
    failed = re.findall(r"^(?:FAILED|ERROR) \S*::(\S+)", text, re.MULTILINE)
    last = (text.strip().splitlines() or ["no output"])[-1]
    row["fault"] = " ".join(failed[:3]) or f"pytest ended with {code}: {last}"
  return row


_PARTS = {
  "roofline": _roofline,
  "network": _network,
  "circuits": _circuits,
  "retrain": _retrain,
  "decoders": _decoders,
  "context": _context,
  "tests": _tests,
}


def run(
  config_name: str,
  names: Sequence[str],
  limits: Mapping[str, float] = LIMITS,
  whole_day: float = _WHOLE_DAY,
) -> Iterator[Row]:
  """Yields the rows of the parts, each of them measured by a process.

  Args:
    config_name: of `CONFIGS`.
    names: of the parts, in the order in which they are tried.
    limits: seconds, by part.
    whole_day: seconds of all; no part is given more than what is left.
  """
  end = time.monotonic() + whole_day
  for name in names:
    left = min(limits[name], end - time.monotonic())
    if left < min(_LEAST, limits[name]):
      yield {"part": name, "who": name, "fault": "no time was left"}
      continue
    command = [
      sys.executable, "-m", "experiments.device_day", f"--part={name}",
      f"--config={config_name}",
    ]  # fmt: skip
    yield from asked(name, command, left)


def asked(name: str, command: Sequence[str], limit: float) -> Iterator[Row]:
  """Runs a part; its rows, and one more if it failed or met its limit."""
  begin, fault = time.monotonic(), ""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "rows.jsonl"
    with open(path, "w") as out, open(path.with_suffix(".err"), "w+") as err:
      # A session of its own, so that its children end with it.
      child = subprocess.Popen(
        command, cwd=_ROOT, stdout=out, stderr=err, start_new_session=True
      )
      try:
        if child.wait(limit):
          err.seek(0)
          said = err.read().strip().splitlines() or ["nothing"]
          fault = f"ended with {child.returncode}: {said[-1]}"
      except subprocess.TimeoutExpired:
        fault = f"was stopped at its limit of {limit:.0f} s"
      finally:
        if child.poll() is None:
          os.killpg(child.pid, signal.SIGKILL)
          child.wait()
    for line in path.read_text().splitlines():
      if line.startswith("{") and line.endswith("}"):
        yield json.loads(line)
  if fault:
    spent = round(time.monotonic() - begin, 1)
    yield {"part": name, "who": name, "fault": fault, "seconds": spent}


def table(found: Sequence[Row]) -> str:
  """The day in one table, the roofline above it."""
  best = next((_rate(row) for row in found if "bfloat16" in row["who"]), None)
  roof = best and best[0] * _work(found, "bfloat16") / 1e12
  copy = next((row["gb_per_s"] for row in found if "gb_per_s" in row), None)
  lines = []
  for row in found:
    rate, unit = _rate(row) or (None, "")
    done = rate and "work" in row and rate * row["work"] / 1e12
    lines.append([
      row["part"],
      str(row["who"]),
      _said(row.get("first_s", row.get("compile_s"))),
      _said(row.get("best_s", row.get("seconds"))),
      f"{_said(rate)} {unit}".strip(),
      _said(done),
      _said(done and roof and done / roof),
      _note(row),
    ])  # fmt: skip
  device = next((row["device"] for row in found if "device" in row), "unknown")
  head = f"{device}: bfloat16 products {_said(roof)} Tflop/s, "
  head += f"copies {_said(copy)} GB/s, both measured here"
  names = ["part", "what", "first s", "s", "rate", "Tflop/s", "of products"]
  return f"{head}\n\n{rows.table([*names, 'besides'], lines)}"


def _rate(row: Row) -> tuple[float, str] | None:
  """A row's rate, and of what."""
  for key, value in row.items():
    if key.endswith("_per_s") and key != "gb_per_s":
      return value, key.removesuffix("_per_s").replace("_", " ") + "/s"
  return None


def _work(found, name):
  return next(row["work"] for row in found if name in row["who"])


def _said(number: float | None) -> str:
  return "" if not number else f"{number:.3g}"


def _note(row: Row) -> str:
  """What went wrong, or what is told besides times."""
  if "fault" in row or "skipped" in row:
    return row.get("fault") or f"not run: {row['skipped']}"
  told = ("gb_per_s", "passed", "r2", "temporaries_mib", "tokens", "microbatch")
  return ", ".join(f"{key} {row[key]}" for key in told if key in row)


def main(argv: Sequence[str]) -> int:
  """A part's rows; without --part the whole day, and its table."""
  given = flags.FLAGS
  config = CONFIGS[given.config]
  if given.part:
    rows.write(measured(given.part, config))
    return 0
  begin = time.monotonic()
  found = rows.write(run(given.config, given.parts), given.output)
  print(f"\n{table(found)}\n\n{time.monotonic() - begin:.0f} s")
  return int(any("fault" in row for row in found))


if __name__ == "__main__":
  flags.DEFINE_enum("part", "", ["", *_PARTS], "One, in this very process.")
  command.some_of("parts", _PARTS, _PARTS, "Which, in the order of the list")
  command.run(main, CONFIGS)
