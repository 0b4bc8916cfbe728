"""Named spans of positions, such as "subject": wherever each example has it.

A player of some parts at a span is those parts at the positions of the span,
which may be others in every example, so that prompts of different length and
order are asked about together: (head, span), (layer, span), (edge, span).

  where = spans.named({"subject": [[3, 4], [5]], "verb": [[5], [6, 7]]}, 8)
  players = spans.each(components.heads(at), where)

Positions that no span has are always kept. They are those of the rows that the
network is given: with padding on the left they count it.

Shapes: B examples, P positions, K spans, n players.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import parts

_PAIRS = re.compile(r".*\.(scores|pattern)")  # [B, H, P, P]: rows of queries.


@dataclasses.dataclass(frozen=True)
class Spans:
  """Which span each position of each example belongs to.

  Attributes:
    names: the names of the K spans, distinct.
    owner: int32 `[B, P]`, or `[1, P]` for all examples alike; K for no span.
  """

  names: tuple[str, ...]
  owner: np.ndarray


def named(
  schema: Mapping[str, Sequence[Sequence[int]]], num_positions: int
) -> Spans:
  """Spans from their positions in every example.

  Args:
    schema: span to the positions that it has in each of B examples; of one
      example alone, those of all examples. An example may lack a span: [].
    num_positions: P, how many positions a padded row has.

  Raises:
    TypeError: a position that is no integer.
    ValueError: no span, one that no example has, examples of unequal number, a
      position outside 0..P-1, or one of two spans.
  """
  counts = {len(examples) for examples in schema.values()}
  if len(counts) != 1 or 0 in counts:
    raise ValueError(
      "A schema gives every span a list of positions for each example, all of "
      f"one number of examples; got {sorted(counts)}."
    )
  owner = np.full((counts.pop(), num_positions), len(schema), np.int32)
  for number, (name, examples) in enumerate(schema.items()):
    if not any(len(positions) for positions in examples):
      raise ValueError(f"Span {name!r} has no position in any example.")
    for row, positions in enumerate(examples):
      for position in positions:
        position = base.check_integer(position, f"A position of {name!r}")
        if not 0 <= position < num_positions:
          raise ValueError(
            f"Span {name!r} of example {row} has position {position}; "
            f"positions are 0..{num_positions - 1}."
          )
        if owner[row, position] not in (number, len(schema)):
          other = list(schema)[owner[row, position]]
          raise ValueError(
            f"Spans {other!r} and {name!r} of example {row} overlap in "
            f"position {position}."
          )
        owner[row, position] = number
  return Spans(tuple(schema), owner)


def positions(num_positions: int) -> Spans:
  """Every position, the same in all examples: spans "0", "1", ..."""
  names = tuple(map(str, range(num_positions)))
  return Spans(names, np.arange(num_positions, dtype=np.int32)[None])


def each(players: parts.Players, where: Spans) -> parts.Players:
  """A player for each of `players` and each span, as "blocks.0.attn 3 @ verb".

  Those of the first player come first. The other positions are kept.

  Args:
    players: of parts at sites with positions `[B, P, ...]`, of attention's
      scores or patterns `[B, H, P, P]` (the positions of queries), or of edges.
    where: of B examples, or of one for all.

  Raises:
    ValueError: owners of another number of positions or examples, or a player
      that has no unit at the positions of some span.
  """
  n, count = players.n, len(where.names)
  num_positions = where.owner.shape[1]

  def apart(owners):
    found = {}
    for site, owner in owners.items():
      axis = 2 if _PAIRS.fullmatch(site) else 1
      if owner.ndim <= axis or owner.shape[axis] not in (1, num_positions):
        raise ValueError(
          f"Owners at {site} have shape {owner.shape}; spans of "
          f"{num_positions} positions need them on axis {axis}, or 1 there."
        )
      rows = len(where.owner)
      if len({rows, len(owner)} - {1}) > 1:
        raise ValueError(
          f"{site} has owners of {len(owner)} examples, spans are of {rows}."
        )
      shape = [1] * owner.ndim
      shape[0], shape[axis] = where.owner.shape
      span = where.owner.reshape(shape)
      inside = (owner < n) & (span < count)
      found[site] = np.where(inside, owner * count + span, n * count)
      found[site] = found[site].astype(np.int32)
    return found

  names = tuple(f"{a} @ {b}" for a in players.names for b in where.names)
  return parts.Players(names, apart(players.owner), apart(players.edges))


def mean(
  activations: Mapping[str, base.Array], of: Spans, to: Spans | None = None
) -> dict[str, jax.Array]:
  """The mean activation over the positions of each span, to stand in there.

  Args:
    activations: captured ones, `[B, P, ...]`, such as those of a background.
    of: the spans of the activations.
    to: spans of the same names in the inputs that are asked about; `of` by
      default. Positions of none get zero: they are always kept.

  Returns:
    site to float32 `[B', P', ...]`, for `absent` of `components.game`; B' and
    P' are those of `to`.

  Raises:
    ValueError: spans of other names, activations of another shape than `of`,
      NaN and infinity.
  """
  to = of if to is None else to
  if to.names != of.names:
    raise ValueError(f"Spans {of.names} cannot stand for {to.names}.")
  found = {}
  for site, captured in activations.items():
    x = np.asarray(captured, np.float64)
    if x.ndim < 3 or x.shape[1] != of.owner.shape[1]:
      raise ValueError(
        f"{site} has shape {x.shape}; these spans are of [B, "
        f"{of.owner.shape[1]}, ...]."
      )
    owner = np.broadcast_to(of.owner, x.shape[:2])
    inside = owner[..., None] == np.arange(len(of.names))  # [B, P, K]
    total = np.einsum("bpk,bp...->k...", inside.astype(np.float64), x)
    counts = inside.sum(axis=(0, 1)).reshape(-1, *[1] * (x.ndim - 2))
    means = total / counts
    if not np.isfinite(means).all():
      raise ValueError(f"What {site} gives on these inputs is NaN or infinite.")
    padded = np.concatenate([means, np.zeros((1, *means.shape[1:]))])
    found[site] = jnp.asarray(padded[to.owner], jnp.float32)
  return found
