"""Rows of `bench_evaluate` on whole networks, beside PyTorch where it is there.

`minilm, ours` and `minilm, torch`: all-MiniLM-L6-v2 on the review of
`cards.json`, 55 words, [MASK] for absent ones, a linear head; the same token
rows for both. `heads, ours`, `heads, torch` (a batched forward with masks of
its own for each example) and `heads, hooks` (a forward and hooks for every
mask): 40 heads of stories260k behind 32 tokens. `causal, ours` and so on: those
of the folder `--causal` behind a sentence. Sizes of batches (and numbers of
threads of PyTorch) are tried first on a few masks; then each side runs chunk
after chunk at its best, in turns, never at the same time. `masks_per_s` is that
of the best chunk, `all_per_s` that of all.

`prompt, whole` and `prompt, shared`: a network of GPT-2's kind with random
weights, players in the last quarter of a prompt, removed where absent; all of
it run, or the keys and values of the first three quarters once
(`prefix.evaluator`). `layers, whole` and `layers, shared`: the same network on
a short prompt, heads of its last third as players, all blocks run or the
others once (`components.evaluator`). `device`: GPT-2 small's shape in bfloat16
on an accelerator, its 144 heads as players.

Every row says how busy the machine was (`load`, processes that ran).

Shapes: n players, P tokens, B masks.
"""

import dataclasses
import os
import pathlib
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import recorded_games, rows
from spex_jax.ablate import (
  absent,
  components,
  evaluate,
  features,
  prefix,
  readouts,
  text,
)
from spex_jax.models import gpt2, hub, sites, tokens, transformer
from third_party import torch_peer

# What a random prompt needs of a tokenizer.
PADDING: Any = types.SimpleNamespace(special={"pad": 0})

# Jane Austen, Pride and Prejudice (1813), the beginning.
_SENTENCE = """It is a truth universally acknowledged, that a single man in
possession of a good fortune, must be in want of a""".replace("\n", " ")

Row = dict[str, Any]
Ask = Callable[[np.ndarray], np.ndarray]  # Masks to values.


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the measurements.

  Attributes:
    masks: in all, of each trained network.
    chunk: masks in one turn, of each.
    few: masks on which sizes are tried, in four batches.
    sizes: masks at once, of MiniLM, of the heads, and of the causal model's.
    hooked: masks that are run one by one.
    width, layers, heads, vocabulary, length: of the random network.
    players: n, of equal size, behind three quarters of the prompt.
    prompt_masks: masks in a turn, of `repeats`.
    micros: masks at once.
    repeats: turns.
    device: layers, width, heads, length of the one in bfloat16.
    product: the side of the square matrices of bfloat16 beside it.
  """

  masks: tuple[int, int, int] = (4096, 4096, 256)
  chunk: tuple[int, int, int] = (256, 1024, 64)
  few: tuple[int, int, int] = (128, 1024, 64)
  sizes: tuple[tuple[int, ...], ...] = (
    (2, 4, 8, 16), (4, 16, 64, 256), (4, 8, 16),
  )  # fmt: skip
  hooked: int = 64
  width: int = 768
  layers: int = 3
  heads: int = 12
  vocabulary: int = 5000
  length: int = 512
  players: int = 32
  prompt_masks: int = 8
  micros: tuple[int, ...] = (1, 2, 4, 8)
  repeats: int = 4
  device: tuple[int, int, int, int] = (12, 768, 12, 512)
  product: int = 8192


CONFIGS = {
  "quick": Config(
    masks=(8, 8, 4), chunk=(4, 8, 4), few=(4, 4, 4),
    sizes=((2, 4), (2, 4), (2,)), hooked=2,
    width=8, layers=2, heads=2, vocabulary=20, length=16, players=2,
    prompt_masks=2, micros=(2,), repeats=1, device=(1, 8, 2, 8),
    product=64,
  ),
  "full": Config(),
}  # fmt: skip


def run(
  config: Config,
  common: Row,
  *,
  games: pathlib.Path | None,
  minilm: str | None,
  causal: str | None,
  with_peer: bool,
) -> Iterator[Row]:
  """Yields the rows; those of networks that are not at hand say so."""
  for row in (*_prompts(config), *_layers(config), on_device(config)):
    yield common | row
  cards = recorded_games.cards_of(games)
  trained = (
    ("heads", "heads40", _heads),
    ("minilm", "sentiment55", _minilm),
    ("causal", "", _heads),
  )
  for who, game, measure in trained:
    card, folder = cards.get(game), causal
    if game:
      folder = recorded_games.folder_of(card, games, minilm)
    if folder is None:
      yield common | {"who": who, "skipped": "no checkpoint at hand"}
      continue
    peer = torch_peer.Torch() if with_peer else None
    try:
      for row in measure(config, card, folder, peer):
        yield common | row
    finally:
      if peer is not None:
        peer.close()


def _minilm(config, card, folder, peer) -> Iterator[Row]:
  net = hub.load(folder)
  review = card["joined_by"].join(card["words"])
  prompt = text.prompt(review, net.tokenizer, "words")
  see = absent.inputs(prompt, net.tokenizer, "mask")
  coef = np.asarray(card["coef"], np.float32).reshape(-1)
  f = readouts.value(net, see, lambda out, inputs: out.logits @ coef)
  masks = _masks(config.masks[0], prompt.n)
  ids = lambda masks: np.asarray(jax.vmap(see)(masks)["input_ids"])[:, 0]
  ours = {
    size: evaluate.compiled(
      f, prompt.n, shared=net.params, batch_size=max(size, config.few[0] // 4),
      microbatch=size, devices=jax.devices()[:1],
    )
    for size in config.sizes[0]
  }  # fmt: skip
  theirs: dict[Any, Ask] = {}
  if peer is not None:
    for size in config.sizes[0]:
      for threads in (1, _cores()):
        theirs[size, threads] = lambda masks, size=size, threads=threads: (
          peer.embed(folder, ids(masks), coef, batch=size, threads=threads)
        )
  work = flops(net.config, prompt.num_tokens)
  shapes = [
    (prompt.num_tokens * size, a, b)
    for size in (1, 4, 16)
    for a, b in ((384, 1536), (1536, 384))
  ]
  rate = max(product_rate(shapes), _peer_rate(peer, shapes))
  yield from _duel(
    "minilm", ours, theirs, masks, config.few[0], config.chunk[0],
    lambda per_s: {"share": round(per_s * work / rate, 3)},
    {"tokens": prompt.num_tokens, "gflops": round(rate / 1e9, 1)},
  )  # fmt: skip


def _heads(config, card, folder, peer) -> Iterator[Row]:
  """Of the heads behind the card's tokens; without a card, of the sentence."""
  who, which = ("heads", 1) if card else ("causal", 2)
  net = hub.load(folder)
  if card:
    ids, target = card["tokens"], card["target"]
  else:
    ids = net.tokenizer.encode(_SENTENCE).ids.tolist()
    out = net.apply(net.params, input_ids=np.array([ids]), logits_to_keep=1)
    target = int(out.logits[0, -1].argmax())
  inputs = {"input_ids": np.array([ids], np.int32)}
  heads = components.heads(components.shapes(net, net.params, **inputs))
  read = readouts.log_probability(target)
  masks = _masks(config.masks[which], heads.n)
  few, sizes = config.few[which], config.sizes[which]
  ours = {
    size: components.evaluator(
      net, heads, inputs, read, batch_size=max(size, few // 4),
      microbatch=size, devices=jax.devices()[:1],
    )
    for size in sizes
  }  # fmt: skip
  theirs: dict[Any, Ask] = {}
  ask = lambda masks, size, threads, each=False: peer.heads(
    folder, ids, target, masks, batch=size, threads=threads, each=each
  )  # fmt: skip
  if peer is not None:
    for size in sizes:
      for threads in (1, _cores()):
        theirs[size, threads] = lambda masks, size=size, threads=threads: ask(
          masks, size, threads
        )
  found = list(_duel(who, ours, theirs, masks, few, config.chunk[which]))
  yield from found
  if peer is not None:
    some = masks[: config.hooked]
    seconds = min(
      ask(some, len(some), threads, True)[1][0] for threads in (1, _cores())
    )
    per_s = len(some) / seconds
    yield {
      "who": f"{who}, hooks",
      "masks": len(some),
      "masks_per_s": round(per_s, 1),
      "ours_over_theirs": round(found[0]["masks_per_s"] / per_s, 2),
      "load": load(),
    }


def _duel(who, ours, theirs, masks, few, chunk, of_rate=None, more=None):
  """Best size of each side, then chunk after chunk in turns."""
  of_rate = of_rate or (lambda per_s: {})
  first = masks[:few]
  sides = {"ours": ours, "torch": theirs}
  sides = {name: asks for name, asks in sides.items() if asks}
  best = {}
  for name, asks in sides.items():
    for ask in asks.values():
      _seconds(ask, first)  # Compiles, or loads.
    tried = dict.fromkeys(asks, np.inf)
    for _ in range(2):
      for key, ask in asks.items():
        tried[key] = min(tried[key], _seconds(ask, first)[0])
    best[name] = min(tried, key=tried.__getitem__)
  times: dict[str, list[float]] = {name: [] for name in sides}
  values: dict[str, list[np.ndarray]] = {name: [] for name in sides}
  for start in range(0, len(masks), chunk):
    part = masks[start : start + chunk]
    for name, asks in sides.items():
      seconds, found = _seconds(asks[best[name]], part)
      times[name].append(seconds / len(part))
      values[name].append(found)
  difference = {}
  if theirs:
    gap = np.concatenate(values["ours"]) - np.concatenate(values["torch"])
    difference = {"difference": float(np.abs(gap).max())}
  for name in sides:
    per_s = 1 / min(times[name])
    yield {
      "who": f"{who}, {name}",
      "masks": len(masks),
      "best": best[name],
      "masks_per_s": round(per_s, 1),
      "all_per_s": round(1 / float(np.mean(times[name])), 1),
      **of_rate(per_s),
      **({} if name == "ours" else difference | {
        "ours_over_theirs": round(min(times[name]) / min(times["ours"]), 2),
        "of_all": round(sum(times[name]) / sum(times["ours"]), 2),
      }),
      **(more or {}),
      "load": load(),
    }  # fmt: skip


def random_network(config: Config) -> tuple[sites.Network, Any]:
  """A network of GPT-2's kind, and random parameters of it."""
  net = gpt2.network(
    shape(config.layers, config.width, config.heads, config.length,
          config.vocabulary)
  )  # fmt: skip
  return net, jax.jit(net.init)(jax.random.key(0))


def random_prompt(config: Config) -> text.Prompt:
  """Random tokens; the players share the last quarter evenly."""
  rng = np.random.default_rng(0)
  length, n = config.length, config.players
  ids = rng.integers(config.vocabulary, size=length).astype(np.int32)
  late = length // 4
  owner = np.full(length, n, np.int32)
  owner[length - late :] = np.arange(late) * n // late
  zeros = np.zeros((length, 2), np.int32)
  encoding = tokens.Encoding(ids, zeros, np.zeros(length, bool))
  players = features.Players(tuple(f"p{i}" for i in range(n)), owner)
  return text.Prompt("", encoding, players, ((),) * n)


def _prompts(config: Config) -> Iterator[Row]:
  net, params = random_network(config)
  prompt = random_prompt(config)
  read = readouts.log_probability(1)
  see = absent.inputs(prompt, PADDING, "remove")
  settings = {"batch_size": config.prompt_masks, "devices": jax.devices()[:1]}
  whole = lambda micro: evaluate.compiled(
    readouts.value(net, see, read),
    prompt.n,
    shared=params,
    microbatch=micro,
    **settings,
  )
  shared = lambda micro: prefix.evaluator(
    net, prompt, read, "remove", params=params, tokenizer=PADDING,
    microbatch=micro, **settings,
  )  # fmt: skip
  yield from _pair("prompt", config, whole, shared, prompt.n, config.length)


def _layers(config: Config) -> Iterator[Row]:
  net, params = random_network(config)
  rng = np.random.default_rng(1)
  length = max(config.length // 8, 2)
  inputs = {"input_ids": rng.integers(config.vocabulary, size=(1, length))}
  last = f"blocks.{config.layers - 1}."
  at = components.shapes(net, params, **inputs)
  heads = components.heads({s: at[s] for s in at if s.startswith(last)})
  read = readouts.log_probability(1)
  settings = {"batch_size": config.prompt_masks, "devices": jax.devices()[:1]}

  def f(mask, shared):
    params, gates = shared
    # Every head has a mask, and the early ones happen to be kept: 1, which
    # the compiler cannot see.
    kept = {
      site: jnp.maximum(gate * mask.any(), gate)
      for site, gate in gates.items()
      if last not in site
    }
    edits = sites.Edits(scale=kept | dict(heads.edits(mask).scale))
    run = lambda **given: net.apply(params, edits, **given)
    return readouts.forward(net, read, inputs, run)[0]

  gates = {s: jnp.ones((1, 1, 1, 1)) for s in at if s.endswith("attn.z")}
  whole = lambda micro: evaluate.compiled(
    f, heads.n, shared=(params, gates), microbatch=micro, **settings
  )
  shared = lambda micro: components.evaluator(
    net, heads, inputs, read, params=params, microbatch=micro, **settings
  )
  yield from _pair("layers", config, whole, shared, heads.n, length)


def _pair(who, config, whole, shared, n, length) -> Iterator[Row]:
  """Two evaluators of one function, at the best microbatch of each."""
  masks = _masks(config.prompt_masks, n)
  sides: Mapping[str, dict[int, Any]] = {
    "whole": {micro: whole(micro) for micro in config.micros},
    "shared": {micro: shared(micro) for micro in config.micros},
  }
  values, times = {}, {}
  for name, made in sides.items():
    for micro, value_fn in made.items():
      values[name] = value_fn(masks)
      times[name, micro] = np.inf
  for _ in range(config.repeats):
    for name, made in sides.items():
      for micro, value_fn in made.items():
        seconds, _ = _seconds(value_fn, masks)
        times[name, micro] = min(times[name, micro], seconds)
  best = {
    name: min(made, key=lambda micro, name=name: times[name, micro])
    for name, made in sides.items()
  }
  gap = float(np.abs(values["whole"] - values["shared"]).max())
  for name in sides:
    row = {
      "who": f"{who}, {name}",
      "shape": f"{config.layers} x {config.width}, {length} tokens",
      "best": best[name],
      "masks_per_s": round(len(masks) / times[name, best[name]], 2),
      "load": load(),
    }
    if name == "shared":
      both = [times[side, best[side]] for side in ("whole", "shared")]
      row |= {
        "times": round(both[0] / both[1], 2),
        "difference": gap,
        "head_s": round(sides[name][best[name]].stats.head_seconds, 2),
      }
    yield row


def on_device(config: Config, rehearsed: bool = False) -> Row:
  """Half of the rate of a plain product is asked for on an accelerator.

  Args:
    config: its `device` and `product`.
    rehearsed: on a CPU, too, which its full sizes would keep for long.
  """
  layers, width, heads, length = config.device
  row: Row = {"who": "device", "shape": f"{layers} x {width}, {length} tokens"}
  if jax.devices()[0].platform == "cpu" and not rehearsed:
    return row | {"skipped": "bfloat16 is measured on an accelerator"}
  made = shape(layers, width, heads, length, config.vocabulary)
  net = gpt2.network(made)
  params = net.init(jax.random.key(0))
  inputs = {"input_ids": np.arange(length)[None] % config.vocabulary}
  players = components.heads(components.shapes(net, params, **inputs))
  value_fn = components.evaluator(
    net, players, inputs, readouts.log_probability(1), params=params,
    dtype=jnp.bfloat16, batch_size=None, devices=jax.devices()[:1],
  )  # fmt: skip
  batch = value_fn.prepare().batch_shape
  assert batch is not None
  size = batch[0]
  masks = _masks(4 * size, players.n)
  value_fn(masks)
  seconds = min(_seconds(value_fn, masks)[0] for _ in range(3))
  rate = product_rate([(config.product,) * 3], jnp.bfloat16)
  per_s = len(masks) / seconds
  return row | {
    "best": value_fn.stats.microbatch,
    "masks_per_s": round(per_s, 1),
    "share": round(per_s * flops(made, length, last_only=True) / rate, 3),
    "gflops": round(rate / 1e9, 1),
  }


def flops(config: Any, length: int, last_only: bool = False) -> int:
  """Of one forward's matrix products; a multiply-add counts as two.

  With `last_only` the last block has only its keys and values at all positions.
  """
  d, f = config.width, config.num_neurons
  block = 8 * length * d * d + 4 * length * d * f + 4 * length * length * d
  if not last_only:
    return config.num_blocks * block
  return (config.num_blocks - 1) * block + 4 * length * d * d


def product_rate(shapes: Any, dtype: Any = jnp.float32) -> float:
  """Operations a second of the best plain product `[a, b] @ [b, c]`."""
  best = 0.0
  rng = np.random.default_rng(0)
  product = jax.jit(jnp.matmul)
  for a, b, c in shapes:
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    _, seconds = rows.seconds(product, draw(a, b), draw(b, c), repeats=10)
    best = max(best, 2 * a * b * c / seconds)
  return best


def _peer_rate(peer, shapes) -> float:
  if peer is None:
    return 0.0
  return max(peer.products(shapes, threads=n) for n in (1, _cores()))


def shape(
  layers: int, width: int, heads: int, length: int, vocabulary: int
) -> transformer.Config:
  """The settings of a network of GPT-2's kind."""
  return transformer.Config(
    width=width, num_blocks=layers, num_heads=heads, num_kv_heads=heads,
    head_width=width // heads, num_neurons=4 * width, activation="gelu_new",
    score_scale=(width // heads) ** -0.5, vocab_size=vocabulary,
    max_positions=length,
  )  # fmt: skip


def _seconds(ask, masks):
  """Seconds and values; a peer's own seconds, without the transfer."""
  begin = time.perf_counter()
  found = ask(masks)
  if isinstance(found, tuple):
    values, seconds = found
    return min(seconds), values
  return time.perf_counter() - begin, found


def _masks(count, n):
  found = np.random.default_rng(0).random((4 * count, n)) < 0.5
  _, first = np.unique(found, axis=0, return_index=True)
  return found[np.sort(first)[:count]]


def _cores() -> int:
  return os.cpu_count() or 1


def load() -> float:
  """How many processes ran of late."""
  return round(os.getloadavg()[0], 1)
