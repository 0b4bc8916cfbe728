"""Units of networks that see: filters, neurons, heads, class logits.

Any site of any network of `models`, or of a module of one's own behind the same
face, whose one input is `pixel_values`.

Shapes: B pictures; F units at the site; P tokens, the first of them the class
token; h by w places.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.agents.maia import units
from spex_jax.models import pixels, sites

_BATCH = 32  # Pictures of a run; one program serves all.
Prepare = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Unit:
  """One unit.

  A filter's activation is its largest over the places, as in dissection; a
  neuron's of a transformer over the patches; a head's the length of what it
  gives; what has one number a picture is that.

  Attributes:
    name: the name of the unit, fit for a file's name.
    number: the unit's index among those at its site.
    run: pixel values `[B, 3, H, W]` to the site's activations; compiled.
    prepare: a picture uint8 `[H, W, 3]` to pixel values `[3, H, W]`.
    has_tokens: whether the site's second axis is of tokens.
  """

  name: str
  number: int
  run: Callable[[np.ndarray], jax.Array]
  prepare: Prepare
  has_tokens: bool

  def call(self, pictures: Sequence[np.ndarray]) -> units.Seen:
    """See `units.System`.

    Raises:
      ValueError: activations that are NaN or infinite.
    """
    given = units.checked(pictures)
    if not len(given):
      return units.Seen(np.zeros(0), np.zeros((0, 1, 1), np.float32))
    values = np.stack([self.prepare(picture) for picture in given])
    found = []
    for start in range(0, len(values), _BATCH):
      rows = values[start : start + _BATCH]
      spare = np.zeros((_BATCH - len(rows), *rows.shape[1:]), rows.dtype)
      out = np.asarray(self.run(np.concatenate([rows, spare])))
      found.append(self._places(out[: len(rows)]))
    maps = np.concatenate(found).astype(np.float32)
    if not np.isfinite(maps).all():
      raise ValueError(f"Unit {self.name} gives NaN or infinity.")
    return units.Seen(maps.max((1, 2)).astype(float), maps)

  def _places(self, x: np.ndarray) -> np.ndarray:
    """Of a site's activations those of the unit, where: `[B, h, w]`."""
    if x.ndim == 2:
      return x[:, self.number, None, None]
    if not self.has_tokens:
      return x[:, self.number]
    # [B, P, F] of neurons; [B, P, F, d] of heads.
    own = x[:, :, self.number]
    own = own if own.ndim == 2 else np.linalg.norm(own, axis=-1)
    side = math.isqrt(own.shape[1] - 1)
    return own[:, own.shape[1] - side * side :].reshape(-1, side, side)


def of_network(
  net: sites.Network,
  site: str,
  numbers: Sequence[int],
  prepare: Prepare | None = None,
  params: Any = None,
) -> list[Unit]:
  """Units of a site.

  Args:
    net: a network whose one input is `pixel_values`.
    site: `[B, F]`, `[B, F, h, w]`, or of a transformer `[B, P, F]` and
      `[B, P, F, d]`.
    numbers: the units' indices at the site, one `Unit` for each.
    prepare: a uint8 picture to pixel values; by default it is resized to the
      network's example, in [0, 1].
    params: the parameters to use; None for the network's own.

  Raises:
    ValueError: no parameters, a site that there is not or that has no such
      units.
  """
  params = net.params if params is None else params
  if params is None:
    raise ValueError("The network has no parameters: load or train it.")
  if site not in net.sites:
    raise ValueError(f"No site {site!r}; there are {', '.join(net.sites)}.")
  capture = (site,)

  @jax.jit
  def run(params, pixel_values):
    out = net.apply(params, None, capture, pixel_values=pixel_values)
    return out.activations[site].astype(jnp.float32)

  (spec,) = net.example.values()
  if prepare is None:
    prepare = pixels.Preparation(size=(spec.shape[2], spec.shape[3]))
  ready = prepare
  shape = jax.eval_shape(run, params, spec).shape
  tokens = "embed.tokens" in net.sites and len(shape) > 2
  if len(shape) not in (2, 3, 4) or (len(shape) == 3 and not tokens):
    raise ValueError(f"Site {site!r} of shape {list(shape)} has no units.")
  count = shape[2] if tokens else shape[1]
  for number in numbers:
    if not 0 <= number < count:
      raise ValueError(f"No unit {number} at {site!r}: it has {count}.")
  return [
    Unit(f"{site}-{number}", number, lambda x: run(params, x), ready, tokens)
    for number in numbers
  ]
