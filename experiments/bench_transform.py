"""Times the dense Walsh-Hadamard transform against NumPy and the peer's.

  python -m experiments.bench_transform --config=full --output=rows.jsonl

Prints one JSON line per transform and size. Expect `quick` in 5 s and `full`
in 2 minutes on 2 CPU cores. All three transform the same values in the same
run: ours in float32, compiled for each size; NumPy in float32, one addition
and one subtraction per bit; the peer's by `scipy.fft`, in complex64.

`first_s` includes compilation. `best_s` is the best later call, blocked until
ready. `gb_per_s` counts one read and one write of a float32 array, the least
that a transform can move. `error` is the largest difference from a float64
transform, as a share of the largest coefficient.

Shapes: n players, N = 2^n masks.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import command, rows
from spex_jax.fourier import transform
from third_party import peers, process


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes to time.

  Attributes:
    num_players: n of each size.
    max_peer_players: sizes above are not given to the peer.
    repeats: calls after the first.
    seed: of the values.
  """

  num_players: tuple[int, ...]
  max_peer_players: int
  repeats: int = 5
  seed: int = 0


CONFIGS = {
  "quick": Config(num_players=(4, 10), max_peer_players=10, repeats=2),
  "full": Config(num_players=(10, 14, 16, 18, 20, 22, 24), max_peer_players=24),
}


def numpy_fourier(values: np.ndarray) -> np.ndarray:
  """The transform by its butterflies, `[N]` -> `[N]`, in the dtype given."""
  size = len(values)
  out = values
  for bit in range(size.bit_length() - 1):
    pairs = out.reshape(-1, 2, 1 << bit)
    out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1)
  return out.reshape(size) / out.dtype.type(size)


def run(
  config: Config, peer: peers.SpectralExplain | None = None
) -> Iterator[dict[str, Any]]:
  """Yields one row per transform and size, as soon as it is measured."""
  device = jax.devices()[0]
  common = rows.common("wht")
  for n in config.num_players:
    rng = np.random.default_rng([config.seed, n])
    values = rng.normal(size=2**n).astype(np.float32)
    truth = numpy_fourier(values.astype(np.float64))

    def row(who, first, best, fourier, *, n=n, truth=truth, **more):
      error = np.abs(np.asarray(fourier) - truth).max() / np.abs(truth).max()
      return common | {
        "who": who,
        "n": n,
        "first_s": round(first, 6),
        "best_s": round(best, 6),
        "gb_per_s": round(2 * 4 * 2**n / best / 1e9, 3),
        "error": float(f"{error:.1e}"),
        **more,
      }

    on_device = jax.device_put(values, device)
    ours = jax.jit(transform.fourier_from_values)
    times = rows.seconds(ours, on_device, repeats=config.repeats)
    yield row("spex_jax", *times, ours(on_device))
    times = rows.seconds(numpy_fourier, values, repeats=config.repeats)
    yield row("numpy", *times, numpy_fourier(values), device="cpu")
    if peer is not None and n <= config.max_peer_players:
      fourier, runs = peer.transform(values, repeats=config.repeats + 1)
      # Its axes run from the highest bit to the lowest: the same order.
      yield row(
        "sparse-transform",
        runs[0],
        min(runs[1:]),
        fourier,
        device="cpu",
        numpy=peer.versions["numpy"],
        version=peer.versions["sparse-transform"],
      )


def main(argv):
  """Prints the rows, and writes them where `--output` says."""
  del argv
  with process.optional(peers.SpectralExplain, flags.FLAGS.peer) as peer:
    rows.write(run(CONFIGS[flags.FLAGS.config], peer), flags.FLAGS.output)


if __name__ == "__main__":
  flags.DEFINE_bool("peer", True, "Run the peer too (`make peers`).")
  command.run(main, CONFIGS)
