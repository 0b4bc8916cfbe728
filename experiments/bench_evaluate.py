"""Masks per second of the compiled evaluator, and its memory.

  python -m experiments.bench_evaluate --config=full   # 15 min on 2 cores
    [--rows=networks] [--games=GAMES] [--minilm=FOLDER] [--torch]
    [--causal=FOLDER]

First a plain encoder, then whole networks, then texts whose absent words are
not computed (`--rows` picks one of encoder, networks, kept): see
`bench_networks.py`, whose trained ones need `--games` and `--minilm`, and
PyTorch `make peers-torch` and `--torch`; and `bench_kept.py`, which needs the
folder of a causal model besides.

The encoder has the shape of all-MiniLM-L6-v2 (6 layers, 384 wide, 12 heads, 57
tokens, of which 55 are players) and random weights; an absent token becomes
the mask token. One JSON line each:

`matrix`      the best rate of plain matrix products of such shapes, in this
              very run: what `share` of the others refers to. Only the
              encoder's matrix products are counted as its work.
`evaluator`   batch sizes, with and without microbatches; `first_s` is
              compilation and the first batch, `masks_per_s` steady.
`measured`    what `batch_size=None` chose, and what it measured.
`prefix`      players are the 24 heads of the last two layers. `whole` runs all
              layers for every mask; `unbatched` leaves it to the compiler to
              see that four of them know no mask; `split` runs these once.
`memory`      the bound stated before the run, and the peak of a process that
              does it: parameters and what the run added. `resident_mb` counts
              what the C library keeps after it was freed, too.

Expect small microbatches (4 to 16) to be the fastest on a CPU, `split` to give
some 3 times the masks per second of `whole` and little more than `unbatched`,
whose early layers are shared by a batch of 8 already, and a bound within 10 %
of the measured peak. A share above 1 is work that the compiler left out.

Shapes: n players, P tokens, d wide, H heads of h, F neurons, B masks.
"""

import ctypes
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import bench_kept, bench_networks, command, rows
from spex_jax.ablate import evaluate, prefix

_GIVE_BACK = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_EDITED = 2  # Layers whose heads are the players of `prefix`.


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the encoder and of the measurements.

  Attributes:
    layers, width, heads, neurons, vocabulary: of the encoder.
    players: n; the text has two tokens more.
    sizes: `(batch, microbatch)` to time.
    prefix: `(batch, microbatch)` of the split.
    memory: `(batch, microbatch)` to hold the bound against.
    masks: at least so many per timed call.
    repeats: timed calls; the best counts.
    seed: of weights and masks.
  """

  layers: int = 6
  width: int = 384
  heads: int = 12
  neurons: int = 1536
  vocabulary: int = 30522
  players: int = 55
  sizes: tuple[tuple[int, int], ...] = tuple((1 << k, 1 << k) for k in range(8))
  prefix: tuple[int, int] = (8, 8)
  memory: tuple[tuple[int, int], ...] = ((64, 8), (64, 64), (256, 256))
  masks: int = 64
  repeats: int = 3
  seed: int = 0


CONFIGS = {
  "quick": Config(
    layers=3, width=24, heads=3, neurons=40, vocabulary=50, players=9,
    sizes=((2, 2), (8, 2)), prefix=(4, 4), memory=((4096, 4096),), masks=8,
    repeats=1,
  ),
  "full": Config(sizes=(*Config.sizes, (32, 4), (64, 8))),
}  # fmt: skip


def weights(config: Config) -> dict[str, Any]:
  """Random parameters, of the scale that keeps activations of size 1."""
  rng = np.random.default_rng(config.seed)
  d, f = config.width, config.neurons

  def dense(a, b):
    kernel = rng.normal(size=(a, b)).astype(np.float32) / math.sqrt(a)
    return {"kernel": kernel, "bias": np.zeros(b, np.float32)}

  norm = lambda: {"scale": np.ones(d, np.float32), "bias": np.zeros(d, "f4")}
  layer = lambda: {
    "q": dense(d, d),
    "k": dense(d, d),
    "v": dense(d, d),
    "out": dense(d, d),
    "up": dense(d, f),
    "down": dense(f, d),
    "attn_norm": norm(),
    "mlp_norm": norm(),
  }
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  tokens = rng.integers(1, config.vocabulary, config.players + 2)
  return {
    "tokens": tokens.astype(np.int32),
    "embed": draw(config.vocabulary, d),
    "places": draw(config.players + 2, d),
    "embed_norm": norm(),
    "layers": [layer() for _ in range(config.layers)],
    "head": draw(d),
  }


def encode(
  layers: Any,
  x: jax.Array,
  config: Config,
  gates: jax.Array | None = None,
) -> jax.Array:
  """Post-norm encoder layers on `x` `[P, d]`; `gates` `[layers, H]` or None."""
  for number, w in enumerate(layers):
    split = lambda y: y.reshape(len(y), config.heads, -1)
    q, k, v = (split(_dense(x, w[name])) for name in ("q", "k", "v"))
    scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    z = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v)
    if gates is not None:
      z = z * gates[number].reshape(1, -1, 1)
    x = _norm(x + _dense(z.reshape(x.shape), w["out"]), w["attn_norm"])
    hidden = jax.nn.gelu(_dense(x, w["up"]), approximate=False)
    x = _norm(x + _dense(hidden, w["down"]), w["mlp_norm"])
  return x


def embedded(tokens: jax.Array, params: Any) -> jax.Array:
  """Token embeddings with their places, normalised: `[P, d]`."""
  return _norm(params["embed"][tokens] + params["places"], params["embed_norm"])


def pooled(x: jax.Array, params: Any) -> jax.Array:
  """A linear read-out of the normalised mean: a scalar."""
  mean = x.mean(axis=0)
  return mean @ params["head"] / jnp.sqrt((mean**2).sum())


def value(mask: jax.Array, params: Any, *, config: Config) -> jax.Array:
  """Tokens as players; the first and the last are always kept."""
  kept = jnp.concatenate([jnp.ones(1, bool), mask, jnp.ones(1, bool)])
  tokens = jnp.where(kept, params["tokens"], 0)
  x = encode(params["layers"], embedded(tokens, params), config)
  return pooled(x, params)


def flops(config: Config, layers: int | None = None) -> int:
  """Of one mask's matrix products; a multiply-add counts as two."""
  p, d, f = config.players + 2, config.width, config.neurons
  layer = 8 * p * d * d + 4 * p * d * f + 4 * p * p * d
  return (config.layers if layers is None else layers) * layer


def matrix_rate(config: Config) -> float:
  """Multiply-adds per second, times two, of the best plain matrix product."""
  best = 0.0
  rng = np.random.default_rng(0)
  product = jax.jit(jnp.matmul)
  for height in (config.players + 2) * np.array([1, 4, 16, 64]):
    for a, b in (
      (config.width, config.neurons),
      (config.neurons, config.width),
    ):
      x = jax.device_put(rng.normal(size=(height, a)).astype(np.float32))
      y = jax.device_put(rng.normal(size=(a, b)).astype(np.float32))
      _, seconds = rows.seconds(product, x, y, repeats=10)
      best = max(best, 2 * height * a * b / seconds)
  return best


def run(config: Config, name: str) -> Iterator[dict[str, Any]]:
  """Yields the rows of `config`, which is called `name`, as they come."""
  common = rows.common("evaluate")
  params = weights(config)
  device = jax.devices()[:1]
  rate = matrix_rate(config)
  yield common | {"who": "matrix", "gflops": round(rate / 1e9, 1)}
  one = functools.partial(value, config=config)
  make = functools.partial(evaluate.compiled, shared=params, devices=device)

  def row(who, value_fn, work, n, **more):
    first, best = _timed(value_fn, n, config)
    stats = value_fn.stats
    return common | {
      "who": who,
      "batch": stats.batch_shape[0],
      "microbatch": stats.microbatch,
      "first_s": round(first, 2),
      "masks_per_s": round(best, 1),
      "share": round(best * work / rate, 3),
      "bound_mb": round(stats.memory_bytes / 1e6, 1),
      **more,
    }

  for batch, micro in config.sizes:
    made = make(one, config.players, batch_size=batch, microbatch=micro)
    yield row("evaluator", made, flops(config), config.players)
  chosen = make(one, config.players, batch_size=None)
  candidates = [
    [c.rows, c.microbatch, c.masks_per_second and round(c.masks_per_second, 1)]
    for c in chosen.prepare().candidates
  ]
  probe = round(chosen.stats.probe_seconds, 1)
  yield row(
    "measured", chosen, flops(config), config.players, probe_s=probe,
    candidates=candidates,
  )  # fmt: skip
  for who, made in _prefixes(config, params, device):
    work = flops(config, _EDITED) if "split" in who else flops(config)
    yield row(who, made, work, _EDITED * config.heads)
  for size in config.memory:
    # First with glibc told to give back what is freed, then as it is.
    row = _child(name, size, dict.fromkeys(_GIVE_BACK, "65536"))
    resident = _child(name, size, {})["measured_mb"]
    yield common | {"who": "memory"} | row | {"resident_mb": resident}


def _child(name, size, environment):
  command = [sys.executable, "-m", "experiments.bench_evaluate"]
  child = subprocess.run(
    [*command, f"--config={name}", f"--memory={size[0]},{size[1]}"],
    cwd=pathlib.Path(__file__).resolve().parent.parent,
    env=os.environ | environment,
    text=True,
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(child.stdout)


def peak(config: Config, batch: int, microbatch: int) -> dict[str, Any]:
  """The bound of a program and the peak of running it, in this process.

  The parameters are what they are; beside them counts what the process grew by
  at most while it ran, seen by the system. Needs Linux on a CPU; on an
  accelerator, the peak that the device itself reports.
  """
  params = weights(config)
  one = functools.partial(value, config=config)
  settings = {"batch_size": batch, "microbatch": microbatch}
  devices = jax.devices()[:1]
  made = evaluate.compiled(
    one, config.players, shared=params, devices=devices, **settings
  )
  bound = made.prepare().memory_bytes or 0
  masks = _masks(4 * batch, config.players, config.seed)
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  on_cpu = devices[0].platform == "cpu"
  before = 0
  if on_cpu:
    ctypes.CDLL(None).malloc_trim(0)  # What compilation left free.
    before = _status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
  made(masks)
  if on_cpu:
    measured = size + _status("VmHWM") - before
  else:
    measured = (devices[0].memory_stats() or {})["peak_bytes_in_use"]
  return {
    "batch": batch,
    "microbatch": microbatch,
    "parameters_mb": round(size / 1e6, 1),
    "bound_mb": round(bound / 1e6, 1),
    "measured_mb": round(measured / 1e6, 1),
    "bound_over_measured": round(bound / measured, 3),
  }


def _prefixes(config, params, devices):
  """Three evaluators of the same function of the last layers' heads."""
  early = config.layers - _EDITED
  n = _EDITED * config.heads

  def whole(mask, params):
    # A mask of every head, of which the early ones happen to be kept.
    gates = jnp.concatenate(
      [jnp.zeros(early * config.heads) + mask.any(), mask]
    )
    gates = jnp.maximum(gates, jnp.arange(len(gates)) < early * config.heads)
    x = embedded(params["tokens"], params)
    gates = gates.reshape(config.layers, -1)
    return pooled(encode(params["layers"], x, config, gates), params)

  def head(params):
    x = embedded(params["tokens"], params)
    return encode(params["layers"][:early], x, config)

  def tail(mask, x, params):
    gates = mask.astype(jnp.float32).reshape(_EDITED, -1)
    return pooled(encode(params["layers"][early:], x, config, gates), params)

  unbatched = lambda mask, params: tail(mask, head(params), params)
  batch, micro = config.prefix
  settings = {
    "batch_size": batch, "microbatch": micro, "shared": params,
    "devices": devices,
  }  # fmt: skip
  yield "prefix, whole", evaluate.compiled(whole, n, **settings)
  yield "prefix, unbatched", evaluate.compiled(unbatched, n, **settings)
  yield "prefix, split", prefix.split(head, tail, n, **settings)


def _timed(value_fn, n, config):
  """Seconds to the first batch, and masks per second at best."""
  begin = time.perf_counter()
  batch = value_fn.prepare().batch_shape[0]
  masks = _masks(max(batch, config.masks // batch * batch), n, config.seed)
  value_fn(masks[:batch])
  first = time.perf_counter() - begin
  _, best = rows.seconds(value_fn, masks, repeats=config.repeats)
  return first, len(masks) / best


def _masks(count, n, seed):
  """Random masks, distinct with near certainty, or as many as there are."""
  masks = np.random.default_rng(seed).random((4 * count, n)) < 0.5
  return np.unique(masks, axis=0)[:count]


def _dense(x, w):
  return x @ w["kernel"] + w["bias"].reshape(1, -1)


def _norm(x, w):
  centred = x - x.mean(axis=-1, keepdims=True)
  scale = jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
  return centred * scale * w["scale"].reshape(1, -1) + w["bias"].reshape(1, -1)


def _status(field: str) -> int:
  """Bytes of a field of this process's status."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(field + ":"):
      return int(line.split()[1]) * 1024
  raise ValueError(f"This system does not state {field}.")


def main(argv):
  """Prints the rows, or the peak of one size where `--memory` asks for it."""
  del argv
  config = CONFIGS[flags.FLAGS.config]
  if flags.FLAGS.memory:
    batch, microbatch = map(int, flags.FLAGS.memory)
    print(json.dumps(peak(config, batch, microbatch)))
    return
  name, chosen, parts = flags.FLAGS.config, flags.FLAGS.rows, []
  folders = {
    "games": flags.FLAGS.games and pathlib.Path(flags.FLAGS.games),
    "minilm": flags.FLAGS.minilm,
  }
  if chosen in ("all", "encoder"):
    parts.append(run(config, name))
  if chosen in ("all", "networks"):
    parts.append(
      bench_networks.run(
        bench_networks.CONFIGS[name],
        rows.common("evaluate"),
        causal=flags.FLAGS.causal,
        with_peer=flags.FLAGS.torch,
        **folders,
      )
    )
  if chosen in ("all", "kept"):
    parts.append(
      bench_kept.run(
        bench_kept.CONFIGS[name],
        rows.common("evaluate"),
        causal=flags.FLAGS.causal,
        **folders,
      )
    )
  rows.write(itertools.chain(*parts), flags.FLAGS.output)


if __name__ == "__main__":
  flags.DEFINE_list("memory", None, "batch,microbatch: only their peak.")
  flags.DEFINE_enum(
    "rows", "all", ["all", "encoder", "networks", "kept"], "Which."
  )
  flags.DEFINE_string("games", None, "Folder of cards.json.")
  flags.DEFINE_string("minilm", None, "Folder of all-MiniLM-L6-v2.")
  flags.DEFINE_string("causal", None, "Folder of a causal language model.")
  flags.DEFINE_boolean("torch", False, "Run PyTorch beside ours.")
  command.run(main, CONFIGS)
