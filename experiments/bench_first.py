"""The first call of `auto`, and of the command, in fresh processes.

  python -m experiments.bench_first

A smooth function of 12 directions on 40 players at 1,024 masks: the first call
of a fresh process without any compiled program, and of another with those that
the first has kept; then the same call again, and a function of 37 players,
which are padded to as many. Seconds by the clock and of the processor, which a
busy machine distorts less; `programs` compiled or read, seconds of the compiler
(of all threads) and of tracing and lowering, as JAX's events have them.

Then what users type: `spex --help`, and `spex explain` on digits, in a folder
that holds nothing and in one that holds its network and programs; with
`--model=DIR` a language model too. Expect some 5 minutes on 2 cores.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import app, flags

import spex_jax as spex
from experiments import command, rows
from spex_jax import base

_DIRECTIONS, _BUDGET = 12, 1024
_GAMES = (("first", 0, 40), ("again", 0, 40), ("another", 1, 37))
_TEXT = "The capital of France is Paris, and the capital of Italy is"


def smooth(seed: int, n: int) -> base.ValueFn:
  """A smooth function of a few directions among n players."""
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(n, _DIRECTIONS)) / np.sqrt(n)
  outer = rng.normal(size=_DIRECTIONS)
  return lambda masks: np.tanh((2.0 * masks - 1) @ weights) @ outer


def calls(budget: int = _BUDGET) -> Iterator[rows.Row]:
  """A row for each call of `auto`, in this process."""
  spent: dict[str, list[float]] = {}

  def listen(event: str, duration_secs: float, **about: str | int) -> None:
    del about
    spent.setdefault(event.rpartition("/")[2], []).append(duration_secs)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for name, seed, n in _GAMES:
      spent.clear()
      began = time.perf_counter(), time.process_time()
      found = spex.explain(
        smooth(seed, n), n, budget=budget, method="auto", key=jax.random.key(0)
      )
      total = lambda event: round(sum(spent.get(event, [])), 2)
      yield {
        "call": name,
        "n": n,
        "clock_s": round(time.perf_counter() - began[0], 2),
        "processor_s": round(time.process_time() - began[1], 2),
        "programs": len(spent.get("backend_compile_duration", [])),
        "compiler_s": total("backend_compile_duration"),
        "traced_s": total("jaxpr_trace_duration")
        + total("jaxpr_to_mlir_module_duration"),
        "r2": round(float(found.faithfulness), 4),
      }
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def fresh(words: list[str], cache: pathlib.Path) -> tuple[str, rows.Row]:
  """What a fresh process prints, and the seconds that it takes.

  Raises:
    subprocess.CalledProcessError: it failed.
  """
  own = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONDONTWRITEBYTECODE": "",  # Installed as users' packages are.
  }
  used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
  began = time.perf_counter(), used()
  done = subprocess.run(
    [sys.executable, *words], env=own, check=True, capture_output=True
  )
  took = {
    "clock_s": round(time.perf_counter() - began[0], 2),
    "processor_s": round(used() - began[1], 2),
  }
  return done.stdout.decode(), took


def run(budget: int = _BUDGET, model: str | None = None) -> Iterator[rows.Row]:
  """Yields the rows; see the module's header."""
  common = rows.common("first")
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    for cache in ("empty", "filled"):
      words = ["-m", "experiments.bench_first", "--calls", f"--budget={budget}"]
      printed, _ = fresh(words, root / "auto")
      for line in printed.splitlines():
        yield common | {"cache": cache} | json.loads(line)
    spoken = {"--help": ["--help"], "explain": ["explain"]}
    if model is not None:
      asked = [
        "--config=lm",
        f"--config.model={model}",
        "--config.text=" + _TEXT,
      ]
      spoken["explain lm"] = ["explain", *asked]
    for name, words in spoken.items():
      if words[0] == "explain":
        words = [*words, f"--workdir={root / name.replace(' ', '_')}"]
      for cache in ("empty", "filled"):
        run_it = ["-c", "from spex_jax import cli; cli.run()", *words]
        _, took = fresh(run_it, root / "command")
        yield common | {"command": name, "cache": cache} | took


def main(argv):
  """Prints the rows, those of the calls alone where that is asked."""
  del argv
  given = flags.FLAGS
  if given.model and not os.path.isdir(given.model):
    raise app.UsageError(f"--model={given.model} is no folder.")
  if given.calls:
    rows.write(calls(given.budget))
  else:
    rows.write(run(given.budget, given.model), given.output)


if __name__ == "__main__":
  flags.DEFINE_bool("calls", False, "The calls alone, in this process.")
  flags.DEFINE_integer("budget", _BUDGET, "Masks of each call.")
  flags.DEFINE_string("model", None, "Folder of a language model.")
  command.run(main)
