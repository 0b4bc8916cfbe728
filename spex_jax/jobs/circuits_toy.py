"""The network that `spex circuit find` trains: two layers that do induction.

It reads a segment of tokens in a random order that begins anew, and says which
token comes next. That takes two heads: one of layer 0 looks at the token
before, one of layer 1 finds by it where the last token stood (its keys), and
copies what stood behind (Olsson et al., 2209.11895). Attention alone: its MLPs
write zeros.

A pair: the corrupted prompt has another token where the last one stood first,
so that nothing matches it.

Shapes: N sequences, P positions, V tokens.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import settings
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.jobs import subjects
from spex_jax.models import rope, sites, transformer

TRAINING = subjects.Training(
  num_epochs=4, batch_size=64, learning_rate=5e-3, optimizer="adam",
  weight_decay=0.0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Toy(settings.Settings):
  """A network of two layers, and what it reads."""

  width: int = settings.field(
    32, "of the stream, a multiple of num_heads", low=2
  )
  num_heads: int = settings.field(4, "of each of two layers", low=1)
  num_tokens: int = settings.field(24, "of its vocabulary", low=12)
  length: int = settings.field(20, "of a prompt, in tokens", low=8)
  num_sequences: int = settings.field(16384, "to train on", low=64)

  def check(self) -> None:
    """Refuses sizes that do not go together.

    Raises:
      ValueError: sizes that do not go together, with the reason.
    """
    if self.width % (2 * self.num_heads):
      raise ValueError(
        f"width={self.width} must be a multiple of 2 num_heads="
        f"{2 * self.num_heads}."
      )
    if self.num_tokens < self.length:
      raise ValueError(
        f"num_tokens={self.num_tokens}: a segment has up to length - 2 = "
        f"{self.length - 2} different ones, and a pair one more."
      )


TOY = Toy()


def network(toy: Toy) -> sites.Network:
  """It, without parameters."""
  head = toy.width // toy.num_heads
  return transformer.network(
    transformer.Config(
      width=toy.width,
      num_blocks=2,
      num_heads=toy.num_heads,
      num_kv_heads=toy.num_heads,
      head_width=head,
      num_neurons=1,
      score_scale=head**-0.5,
      vocab_size=toy.num_tokens,
      max_positions=toy.length,
      rotary=rope.Rope(theta=100.0, width=head),
      tied=False,
    )
  )


def attention_only(params: Any) -> Any:
  """Parameters whose MLPs write zeros."""

  def silent(path: Any, leaf: jax.Array) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return jnp.zeros_like(leaf) if "/mlp/down/" in name else leaf

  return jax.tree_util.tree_map_with_path(silent, params)


def trained(
  toy: Toy, training: subjects.Training, seed: int, workdir: pathlib.Path
) -> tuple[sites.Network, str]:
  """The network with parameters, and where they come from in words.

  Args:
    toy: the sizes of the network and of its prompts.
    training: the steps and step sizes of its training.
    seed: an integer, of data, initialisation and order.
    workdir: where it is kept: a second run restores it.

  Raises:
    ValueError: as `subjects.trained`.
  """
  net = network(toy)
  rng = _rng(seed, "sequences")
  rows = [_sequence(rng, toy) for _ in range(toy.num_sequences)]
  told = np.stack([seen for seen, _ in rows])
  targets = np.stack([target for _, target in rows])

  def losses(params: Any, batch: Any) -> jax.Array:
    logits = net.apply(
      attention_only(params), input_ids=batch["features"]
    ).logits
    known = batch["targets"] >= 0
    right = jnp.where(known, batch["targets"], 0)[..., None]
    log = jnp.take_along_axis(jax.nn.log_softmax(logits), right, axis=-1)
    log = log[..., 0] * known
    return -log.sum(axis=1) / known.sum(axis=1)

  depends = {"subject": "induction"}
  depends |= {f"toy.{n}": v for n, v in settings.as_dict(toy).items()}
  params, origin = subjects.trained(
    net.init, told, targets, losses, workdir,
    seed=seed, training=training, depends=depends,
  )  # fmt: skip
  return dataclasses.replace(net, params=attention_only(params)), origin


def pairs(toy: Toy, num: int, seed: int) -> pairs_lib.Pairs:
  """Pairs of prompts that it was not trained on but by chance.

  Args:
    toy: the sizes that the network was made with.
    num: how many pairs are made.
    seed: an integer, the seed of the draws.
  """
  rng = _rng(seed, "pairs")
  rows = []
  for _ in range(num):
    period = _period(rng, toy)
    tokens = rng.permutation(toy.num_tokens)[: period + 1]
    segment, other = tokens[:period], tokens[period]
    clean = np.resize(segment, toy.length)
    first = (toy.length - 1) % period  # Where the last token stood first.
    corrupted = clean.copy()
    corrupted[first] = other
    rows.append(
      {
        "clean_ids": clean.tolist(),
        "corrupted_ids": corrupted.tolist(),
        "right_ids": [int(segment[(first + 1) % period])],
        "spans": {
          "match": [first],
          "answer": [first + 1],
          "end": [toy.length - 1],
        },
      }
    )
  return pairs_lib.from_ids(rows)


def _period(rng: np.random.Generator, toy: Toy) -> int:
  """More than half, so that every token stands there once or twice."""
  return int(rng.integers(toy.length // 2 + 1, toy.length - 1))


def _sequence(
  rng: np.random.Generator, toy: Toy
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens `[P]` and the next ones, -1 where nothing tells them."""
  period = int(rng.integers(3, toy.length - 1))
  segment = rng.permutation(toy.num_tokens)[:period]
  both = np.resize(segment, toy.length + 1).astype(np.int32)
  target = both[1:].copy()
  target[:period] = -1
  return both[:-1], target


def _rng(seed: int, cause: str) -> np.random.Generator:
  key = subjects.key_of(seed, cause)
  return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
