"""Where an expansion's energy lies among the layers of a network.

Energy is the variance of a uniform mask's value that a set of components
accounts for, F(S)^2 (Parseval); that of a set of d components is shared
equally by its d (d - 1) / 2 pairs, each of which is of one layer or joins two.

Source: the study of attention heads in ProxySPEX (arXiv 2505.17495, section 5),
which asks how much of the interactions lies within layers.

Shapes: n components, L layers, K sets.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from spex_jax.fourier import sparse


@dataclasses.dataclass(frozen=True, eq=False)
class LayerEnergy:
  """Energy of an expansion by layers, in squared units of the values.

  Attributes:
    layers: L names, in the order of the first component of each.
    singles: float64 `[L]`, the energy of components alone.
    pairs: float64 `[L, L]`, the energy of pairs, symmetric: on the diagonal of
      pairs within a layer; that of two layers stands in both of its places.
    chance: the share of all pairs of components that are of one layer: what
      `within_share` would be if interactions did not mind layers.
  """

  layers: tuple[str, ...]
  singles: np.ndarray
  pairs: np.ndarray
  chance: float

  @property
  def within(self) -> float:
    """Of interactions within layers."""
    return float(np.trace(self.pairs))

  @property
  def across(self) -> float:
    """Of interactions across layers."""
    return float(np.triu(self.pairs, 1).sum())

  @property
  def within_share(self) -> float:
    """`within` over all interactions'; NaN where there is none."""
    total = self.within + self.across
    return self.within / total if total > 0 else float("nan")

  @property
  def interaction_share(self) -> float:
    """Of interactions, in the energy of all sets; NaN for a constant."""
    several = self.within + self.across
    total = several + float(self.singles.sum())
    return several / total if total > 0 else float("nan")

  def __str__(self) -> str:
    if not self.within + self.across > 0:
      return "no interactions"
    return (
      f"interactions hold {self.interaction_share:.1%} of the energy; "
      f"{self.within_share:.1%} of that lies within layers, where "
      f"{self.chance:.1%} of all pairs are"
    )


def energy(
  fourier: sparse.SparseFourier, layer_of: Sequence[str]
) -> LayerEnergy:
  """The energy of an expansion, by the layers of its players.

  Args:
    fourier: an expansion of one target on n players.
    layer_of: n names: the layer of each player.

  Raises:
    ValueError: other than n names, or several targets.
  """
  names = [str(name) for name in layer_of]
  if len(names) != fourier.n:
    raise ValueError(f"Need {fourier.n} layers; got {len(names)}.")
  if fourier.num_targets is not None:
    raise ValueError("An expansion of one target, please: `.target(t)`.")
  layers = tuple(dict.fromkeys(names))
  number = np.array([layers.index(name) for name in names])
  singles, pairs = np.zeros(len(layers)), np.zeros((len(layers),) * 2)
  for players, coef in fourier.terms():
    own = number[list(players)]
    if len(own) == 1:
      singles[own[0]] += coef**2
    elif len(own) > 1:
      first, second = np.triu_indices(len(own), 1)
      share = coef**2 / len(first)
      a, b = own[first], own[second]
      np.add.at(pairs, (a, b), share)
      np.add.at(pairs, (b[a != b], a[a != b]), share)
  sizes = np.bincount(number, minlength=len(layers)).astype(float)
  all_pairs = fourier.n * (fourier.n - 1) / 2
  chance = float((sizes * (sizes - 1) / 2).sum() / max(all_pairs, 1))
  return LayerEnergy(layers, singles, pairs, chance)


def of_names(names: Sequence[str]) -> tuple[str, ...]:
  """The layer of each component, from names such as "blocks.3.attn 7".

  What stands before the last space is the layer; a name without a space is a
  layer of its own.
  """
  return tuple(str(name).rpartition(" ")[0] or str(name) for name in names)
