"""Component attribution: how fast, and how well, beside what others do.

  python -m experiments.bench_components --config=full
    [--rows=neurons,filters,regression,correlation,vit,language]
    [--stories=STORIES260K] [--torch]

PyTorch needs `make peers-torch` and `--torch`; slow peers are timed on a part.
One JSON line each, with processor time beside wall time, as machines are
shared (`load`):

`neurons`      stories260k, the margins of the next token of 32 prompts under
               masks of its 860 neurons, beside a batched PyTorch forward with
               masks, and forwards with hooks: one for every mask, or for every
               prompt under every mask.
`filters`      margins of 500 digits under masks of all filters of a small CNN,
               beside a PyTorch loop that copies and zeroes weights.
`regression`   COAR's least squares, float32 data, beside scikit-learn's
               `LinearRegression` and `Ridge(solver="cholesky")`.
`correlation`  how well attributions predict the margins of digits under fresh
               ablations: COAR, pairs, leave-one-out, gradients, random; at the
               share that was fitted, around it, and far from it.
`vit`          the same of the neurons of a small vision transformer, without
               pairs, on 200 digits.
`language`     the same of the heads of the model that `--stories` names, on
               tasks of `circuits.tasks`, by the margin of every prompt's right
               answers. `--workdir` keeps values, so that it goes on.

Expect `full` in 20 minutes on 2 CPU cores: fresh ablations that keep .9 of 48
filters predicted with .933 by COAR, .898 by leave-one-out, and 3.0 times the
masks a second of a batched PyTorch forward.

Shapes: n players, B masks, T prompts or images.
"""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import app, flags

from experiments import command, component_quality, digits_networks, rows
from spex_jax.ablate import components, evaluate, readouts
from spex_jax.components import coar
from spex_jax.masks import sampling
from spex_jax.models import hub
from third_party import process, torch_peer

_ANIMALS = ("cat", "dog", "bird", "bear", "girl", "boy", "frog", "fish")
_KINDS = ("little", "happy", "big", "sad")


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the measurements.

  Attributes:
    masks: B of `neurons` and of `filters`.
    chunk: masks in one turn of either.
    few: masks on which sizes of batches are tried, of either.
    micros: masks at once, ours, of either.
    torch_sizes: masks at once, PyTorch's, of `neurons`.
    one_by_one: masks that a hook or a copy each is timed on.
    prompts: of `neurons`, and their tokens.
    images: of `filters` and of `correlation`.
    width: filters of the first convolution; twice as many in the second.
    epochs: of its training.
    regression: n, m, T.
    keep: share of components kept.
    quality: of `correlation`.
    language: of `language`.
    repeats: of which the best counts.
  """

  masks: tuple[int, int] = (4096, 10_000)
  chunk: tuple[int, int] = (512, 1000)
  few: tuple[int, int] = (64, 64)
  micros: tuple[tuple[int, ...], ...] = ((1, 2, 4, 8), (1, 2, 4, 8, 16))
  torch_sizes: tuple[int, ...] = (1, 4, 16)
  one_by_one: tuple[int, int] = (32, 500)
  prompts: tuple[int, int] = (32, 16)
  images: int = 500
  width: int = 16
  epochs: int = 15
  regression: tuple[int, int, int] = (2304, 50_000, 1000)
  keep: float = 0.9
  quality: component_quality.Config = component_quality.FULL
  language: component_quality.Language = component_quality.LANGUAGE
  repeats: int = 2


CONFIGS = {
  "quick": Config(
    masks=(8, 8), chunk=(4, 4), few=(2, 2), micros=((2,), (2,)),
    torch_sizes=(2,), one_by_one=(2, 2), prompts=(2, 4), images=20, width=2,
    epochs=1, regression=(20, 200, 3), repeats=1,
    quality=component_quality.QUICK, language=component_quality.QUICK_LANGUAGE,
  ),
  "full": Config(),
}  # fmt: skip


def run(
  config: Config,
  names: list[str],
  *,
  stories: pathlib.Path | None,
  with_peer: bool,
  workdir: str | None = None,
) -> Iterator[rows.Row]:
  """Yields the rows of `names`, as they come; `workdir` keeps values."""
  common = rows.common("components")
  made = {
    **_ROWS,
    "language": lambda config, stories, peer: component_quality.language(
      config.language, stories, workdir
    ),
  }
  with process.Kept(torch_peer.Torch) as peer:
    for name in names:
      for row in made[name](config, stories, peer if with_peer else None):
        yield (
          common | {"row": name} | row | {"load": round(os.getloadavg()[0], 1)}
        )


def _neurons(
  config: Config, stories: pathlib.Path | None, peer
) -> Iterator[rows.Row]:
  if stories is None:
    yield {"skipped": "no --stories, a language model's folder"}
    return
  net = hub.load(stories)
  ids = prompts(net.tokenizer, *config.prompts)
  logits = jax.jit(lambda params: net.apply(params, input_ids=ids).logits)
  targets = np.asarray(logits(net.params))[:, -1].argmax(axis=1)
  players = components.neurons(
    components.shapes(net, net.params, input_ids=ids)
  )
  masks = _masks(config.masks[0], players.n, config.keep)
  build = lambda micro: _evaluator(
    net, players, {"input_ids": ids}, readouts.margins(targets), micro,
    config.chunk[0],
  )  # fmt: skip
  ours = {micro: _ours(build(micro)) for micro in config.micros[0]}
  theirs: dict[Any, _Ask] = {}
  if peer is not None:
    for size in config.torch_sizes:
      for threads in sorted({1, _cores()}):
        theirs[size, threads] = lambda masks, size=size, threads=threads: _of(
          peer(),
          peer().neurons(
            stories, ids, targets, masks, batch=size, threads=threads
          ),
        )
  found = list(_turns(ours, theirs, masks, config.chunk[0], config.few[0]))
  extra = {
    "players": players.n,
    "prompts": len(ids),
    "tokens": ids.shape[1],
  }
  for row in found:
    yield row | extra
  if peer is not None:
    for who, apart in (("hooks", False), ("hooks, prompt by prompt", True)):
      hooks = lambda masks, threads, apart=apart: peer().neurons(
        stories, ids, targets, masks, batch=len(masks), threads=threads,
        each=True, apart=apart,
      )  # fmt: skip
      few = masks[: config.one_by_one[0]]
      yield _alone(f"torch, {who}", peer, hooks, few, ours, found[0])


def _filters(
  config: Config, stories: pathlib.Path | None, peer
) -> Iterator[rows.Row]:
  del stories
  made = digits_networks.cnn(config.width, config.epochs)
  x, y = made.test.pixels[: config.images], made.test.labels[: config.images]
  players = components.filters(
    components.shapes(made.net, made.net.params, pixel_values=x)
  )
  masks = _masks(config.masks[1], players.n, config.keep)
  build = lambda micro: _evaluator(
    made.net, players, {"pixel_values": x}, readouts.margins(y), micro,
    config.chunk[1],
  )  # fmt: skip
  ours = {micro: _ours(build(micro)) for micro in config.micros[1]}
  found = list(_turns(ours, {}, masks, config.chunk[1], config.few[1]))
  yield found[0] | {
    "players": players.n,
    "images": len(x),
    "accuracy": round(made.accuracy, 4),
  }
  if peer is None:
    return
  network = for_torch(made)
  loop = lambda masks, threads: peer().filters(
    network, x, y, masks, threads=threads
  )
  few = masks[: config.one_by_one[1]]
  yield _alone("torch, copies", peer, loop, few, ours, found[0])


def _regression(
  config: Config, stories: pathlib.Path | None, peer
) -> Iterator[rows.Row]:
  del stories, peer
  from sklearn import linear_model

  n, count, targets = config.regression
  rng = np.random.default_rng(0)
  masks = _masks(count, n, config.keep)
  values = masks.astype(np.float32) @ rng.normal(size=(n, targets)).astype("f4")
  values += rng.normal(size=values.shape).astype(np.float32)
  x = masks.astype(np.float32)
  work = {"n": n, "m": count, "T": targets}
  alpha = 1.0
  cases = (
    ("LinearRegression", 0.0, lambda: linear_model.LinearRegression()),
    (
      "Ridge(cholesky)",
      4 * alpha / count,
      lambda: linear_model.Ridge(alpha, solver="cholesky"),
    ),
  )
  for who, penalty, make in cases:
    # In turns; the slow one once.
    many = 1 if who == "LinearRegression" else config.repeats + 1
    fit = functools.partial(coar.fit, masks, values, penalty=penalty)
    both = [
      (_clocked(fit), _clocked(functools.partial(make().fit, x, values)))
      for _ in range(many)
    ]
    (found, *ours), (fitted, *theirs) = (
      min(side, key=lambda one: one[1]) for side in zip(*both)
    )
    yield work | {
      "peer": who,
      "seconds": round(ours[0], 2),
      "cpu_s": round(ours[1], 2),
      "peer_seconds": round(theirs[0], 2),
      "peer_cpu_s": round(theirs[1], 2),
      "times_faster": round(theirs[0] / ours[0], 2),
      "times_less_cpu": round(theirs[1] / ours[1], 2),
      "largest_difference": float(np.abs(found.scores - fitted.coef_).max()),
    }


def _correlation(
  config: Config, stories: pathlib.Path | None, peer
) -> Iterator[rows.Row]:
  del stories, peer
  made = digits_networks.cnn(config.width, config.epochs)
  yield from _compared(
    config, made, components.filters, config.quality, config.images
  )


def _vit(
  config: Config, stories: pathlib.Path | None, peer
) -> Iterator[rows.Row]:
  del stories, peer
  made = digits_networks.transformer(2 * config.width, 4 * config.epochs)
  sizes = dataclasses.replace(config.quality, far=False)
  yield from _compared(
    config, made, components.neurons, sizes, min(config.images, 200)
  )


def _compared(config, made, kind, sizes, images) -> Iterator[rows.Row]:
  x, y = made.test.pixels[:images], made.test.labels[:images]
  inputs = {"pixel_values": x}
  players = kind(components.shapes(made.net, made.net.params, **inputs))
  read = readouts.margins(y)
  value_fn = _evaluator(
    made.net, players, inputs, read, config.micros[1][-1], 64
  )
  given = (made.net, players, inputs, read)
  for row in component_quality.compared(sizes, given, value_fn):
    yield row | {"images": len(x), "accuracy": round(made.accuracy, 4)}


_ROWS: Mapping[str, Callable[..., Iterator[rows.Row]]] = {
  "neurons": _neurons,
  "filters": _filters,
  "regression": _regression,
  "correlation": _correlation,
  "vit": _vit,
}  # And `language`, of another file.

# Masks to values, wall seconds and processor seconds.
_Ask = Callable[[np.ndarray], tuple[np.ndarray, float, float]]


def prompts(tokenizer: Any, count: int, length: int) -> np.ndarray:
  """The beginnings of stories, int32 `[count, length]`, at most 32 of them."""
  texts = [
    f"Once upon a time, there was a {kind} {animal}. The {animal} liked to "
    "play with a ball in the park every day."
    for kind in _KINDS
    for animal in _ANIMALS
  ]
  first = tokenizer.id_of("bos")
  ids = [[first, *tokenizer.encode(text).ids][:length] for text in texts]
  return np.array(ids[:count], np.int32)


def for_torch(made: digits_networks.Trained) -> dict[str, np.ndarray]:
  """A trained network's arrays, as `torch_peer.Torch.filters` takes them."""
  state: Any = made.net.params
  out = {"head": state["params"]["head"] * made.layers.head_scale}
  parts = zip(state["params"]["layers"], state["moments"])
  for number, (layer, (mean, var)) in enumerate(parts):
    for name, array in (
      ("kernel", layer["kernel"]), ("weight", layer["scale"]),
      ("bias", layer["bias"]), ("running_mean", mean), ("running_var", var),
    ):  # fmt: skip
      out[f"{name}{number}"] = np.asarray(array)
  return out


def _evaluator(net, players, inputs, read, micro, batch) -> evaluate.Evaluator:
  return components.evaluator(
    net,
    players,
    inputs,
    read,
    batch_size=max(micro, batch // micro * micro),
    microbatch=micro,
    devices=jax.devices()[:1],
  )


def _ours(value_fn: evaluate.Evaluator) -> "_Ask":
  return lambda masks: _clocked(lambda: value_fn(masks))


def _of(peer, answer):
  values, seconds = answer
  return values, seconds[0], peer.cpu_seconds[0]


def _clocked(call):
  begin, busy = time.perf_counter(), time.process_time()
  out = call()
  return out, time.perf_counter() - begin, time.process_time() - busy


def _turns(ours, theirs, masks, chunk, few) -> Iterator[rows.Row]:
  """Best size of each side on a few masks; then chunk after chunk in turns."""
  sides = {"ours": ours} | ({"torch, batched": theirs} if theirs else {})
  best = {}
  for side, asks in sides.items():
    tried = {}
    for key, ask in asks.items():
      ask(masks[:few])  # Compiles, or loads.
      tried[key] = min(ask(masks[:few])[1] for _ in range(2))
    best[side] = min(tried, key=tried.__getitem__)
  clock: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
  values: dict[str, list[np.ndarray]] = {side: [] for side in sides}
  for start in range(0, len(masks), chunk):
    part = masks[start : start + chunk]
    for side, asks in sides.items():
      found, wall, busy = asks[best[side]](part)
      clock[side].append((wall / len(part), busy / len(part)))
      values[side].append(found)
  for side in sides:
    wall, busy = (min(column) for column in zip(*clock[side]))
    row = {
      "who": side,
      "masks": len(masks),
      "best": best[side],
      "masks_per_s": round(1 / wall, 1),
      "masks_per_cpu_s": round(1 / busy, 1),
    }
    if side != "ours":
      mine = [min(column) for column in zip(*clock["ours"])]
      gap = np.concatenate(values["ours"]) - np.concatenate(values[side])
      row |= {
        "ours_over_theirs": round(wall / mine[0], 2),
        "by_cpu": round(busy / mine[1], 2),
        "difference": float(np.abs(gap).max()),
      }
    yield row


def _alone(who, peer, ask, masks, ours, mine) -> rows.Row:
  """A slow peer on a few masks, at its best number of threads."""
  tried = {
    threads: _of(peer(), ask(masks, threads))
    for threads in sorted({1, _cores()})
  }
  best = min(tried, key=lambda threads: tried[threads][1])
  values, wall, _ = tried[best]
  busy = min(one[2] for one in tried.values())
  per_s, per_cpu = len(masks) / wall, len(masks) / busy
  gap = values - ours[mine["best"]](masks)[0]
  return {
    "who": who,
    "masks": len(masks),
    "best": best,
    "masks_per_s": round(per_s, 1),
    "masks_per_cpu_s": round(per_cpu, 1),
    "ours_over_theirs": round(mine["masks_per_s"] / per_s, 2),
    "by_cpu": round(mine["masks_per_cpu_s"] / per_cpu, 2),
    "difference": float(np.abs(gap).max()),
  }


def _masks(count: int, n: int, keep: float) -> np.ndarray:
  return sampling.biased(jax.random.key(7), count, n, keep)


def _cores() -> int:
  return os.cpu_count() or 1


def main(argv):
  """Prints the rows."""
  del argv
  stories = flags.FLAGS.stories
  if stories is None and "language" in flags.FLAGS.rows:
    raise app.UsageError("--rows=language needs --stories, a model's folder.")
  found = run(
    CONFIGS[flags.FLAGS.config],
    flags.FLAGS.rows,
    stories=stories and pathlib.Path(stories),
    with_peer=flags.FLAGS.torch,
    workdir=flags.FLAGS.workdir,
  )
  rows.write(found, flags.FLAGS.output)


if __name__ == "__main__":
  command.some_of("rows", _ROWS, [*_ROWS, "language"], "Which rows")
  flags.DEFINE_string("stories", None, "Folder of the language model.")
  flags.DEFINE_string("workdir", None, "Where values of language are kept.")
  flags.DEFINE_boolean("torch", False, "Run PyTorch beside ours.")
  command.run(main, CONFIGS)
