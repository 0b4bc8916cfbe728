"""Every method of scoring tokens, by Inseq's name.

A method takes an `games.Game` and gives float64 scores `[S, T]`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from spex_jax.context import attributions, discretized, games, reagent, zeroing
from spex_jax.models import sites

METHODS: Mapping[str, Callable[[games.Game], np.ndarray]] = {
  "saliency": attributions.saliency,
  "input_x_gradient": attributions.input_x_gradient,
  "integrated_gradients": attributions.integrated_gradients,
  "sequential_integrated_gradients": (
    attributions.sequential_integrated_gradients
  ),
  "discretized_integrated_gradients": (
    discretized.discretized_integrated_gradients
  ),
  "layer_integrated_gradients": attributions.layer_integrated_gradients,
  "layer_gradient_x_activation": attributions.layer_gradient_x_activation,
  "attention": attributions.attention,
  "value_zeroing": zeroing.value_zeroing,
  "occlusion": attributions.occlusion,
  "lime": attributions.lime,
  "reagent": reagent.reagent,
}
# They put other tokens in the place of some of `input_ids`.
MASKING = ("occlusion", "lime", "reagent")
# No target enters.
INTERNAL = ("attention", "value_zeroing", "reagent")
# Sites that an architecture may lack, and what needs them.
_NEEDED = {"attention": ".attn.pattern", "value_zeroing": ".attn.v"}


def check(net: sites.Network, method: str) -> None:
  """Refuses a method that is not known, or that a network cannot be asked.

  Raises:
    ValueError: naming those that there are, or what the network lacks.
  """
  if method not in METHODS:
    raise ValueError(f"method={method!r}: choose from {', '.join(METHODS)}.")
  end = _NEEDED.get(method, "")
  if not any(site.endswith(end) for site in net.sites):
    raise ValueError(
      f"method={method!r} reads sites that end with {end}, and "
      f"{type(net.module).__name__} has none; choose saliency or occlusion."
    )
