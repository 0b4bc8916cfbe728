"""Which weights stand for the units at a site, so that zero there removes them.

Three kinds, by where the matrix is:
  into    the units enter it: their rows are zeroed (heads at `attn.z`, neurons)
  out     they leave it: its columns, and entries of the bias behind it, are
          zeroed (`attn.out` and `mlp.out`, `pre`, a head's q, k or v, an
          expert), or those of the scale behind it
  filter  they leave a convolution: output channels are zeroed; the norm and
          the bias behind it stay as they are
A forward with such weights equals one with the units scaled by 0.

A constant c that stands in instead of zero moves the offset behind the matrix:
a bias gets c times the rows (into) or is c (out); the mean that a batch norm
takes away gets less by c (filter).

Shapes: a site's activation `[B, ...]`; kernels as in `models`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from spex_jax.models import blocks, convnet, mlp, resnet, sites

KINDS = ("into", "out", "filter")
_STACK = re.compile(
  r"(?:(encoder|decoder)\.)?blocks\.(\d+)\.(attn|cross|mlp)\.([\w.]+)"
)
_STAGE = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(?:conv(\d+)|(shortcut))")


class Weights(NamedTuple):
  """Where the units of a site stand in the parameters.

  Attributes:
    kind: on which side of the matrix they stand, one of `KINDS`.
    kernel: path of the matrix, joined by "/".
    axes: pairs of an axis of the activation and the kernel's axis for it; the
      units may lie along any of them.
    offset: path of what takes up a constant; "" if nothing does. Its axes are
      those of `axes` in order (out, filter) or the kernel's others (into).
      A bias that is not there counts as none.
  """

  kind: str
  kernel: str
  axes: tuple[tuple[int, int], ...]
  offset: str = ""


def weights(
  net: sites.Network, site: str, own: Mapping[str, Weights] | None = None
) -> Weights:
  """The weights of a site's units.

  Args:
    net: the network whose site it is.
    site: the name of one of its sites.
    own: site to weights, for a module of your own (`models.adapters`), whose
      parameters are not known here; comes first.

  Raises:
    ValueError: no such site, or one for which no weight stands: a sum, a
      norm's output, a pattern of attention. Such units can be removed at
      inference only, by edits.
  """
  if site not in net.sites:
    raise ValueError(f"The network has no site {site!r}; it has {net.sites}.")
  if own and site in own:
    if own[site].kind not in KINDS:
      raise ValueError(
        f"Weights of {site!r} are {own[site].kind!r}; choose from {KINDS}."
      )
    return own[site]
  found = _found(net.config, site)
  if found is None:
    where = (
      "a module of your own: say which by `weights`"
      if net.config is None
      else type(net.config).__module__.rpartition(".")[2]
    )
    hint = ""
    if site.endswith(".heads"):
      hint = f" Remove heads at {site.removesuffix('heads') + 'z'!r}."
    raise ValueError(
      f"No weight stands for the units at {site!r} (of {where}), so that they "
      f"cannot be removed from the parameters; use edits at inference.{hint}"
    )
  return found


def _found(config: Any, site: str) -> Weights | None:
  if isinstance(config, blocks.Config):
    hit = _STACK.fullmatch(site)
    return hit and _of_block(config, *hit.groups())
  if isinstance(config, resnet.Config):
    return _of_resnet(site)
  if isinstance(config, convnet.ConvNet):
    return _of_convnet(config, site)
  if isinstance(config, mlp.Config):
    return _of_mlp(config, site)
  return None


def _of_block(config, stack, number, part, what) -> Weights | None:
  at = f"{stack}/" if stack else ""
  at += f"blocks_{number}/{part}/"
  if what == "out" and config.layer_scale:  # Zero there takes a bias along.
    name = "out/scale" if part == "attn" else "scale"
    return Weights("out", at + name, ((2, 0),))
  if part == "mlp" and config.has_experts(int(number)):
    return _of_experts(at + "experts_down/kernel", what)
  if part == "mlp":
    if what == "neurons":
      return Weights("into", at + "down/kernel", ((2, 0),), at + "down/bias")
    if what == "out":
      return Weights("out", at + "down/kernel", ((2, 1),), at + "down/bias")
    if what == "pre":
      at += "gate" if config.gated else "up"
      return Weights("out", at + "/kernel", ((2, 1),), at + "/bias")
    return None
  if what == "z":
    pairs = ((2, 0), (3, 1))
    return Weights("into", at + "out/kernel", pairs, at + "out/bias")
  if what == "out":
    return Weights("out", at + "out/kernel", ((2, 2),), at + "out/bias")
  if what in ("q", "k", "v"):
    # Where a norm lies between them and the site, no bias can be a constant.
    normed = what != "v" and getattr(config, "qk_norm", "")
    if normed and config.qkv_bias:
      return None
    offset = "" if normed else f"{at}{what}/bias"
    return Weights("out", f"{at}{what}/kernel", ((2, 1), (3, 2)), offset)
  return None


def _of_experts(kernel, what) -> Weights | None:
  """Of the matrices `[E, F, d]` by which experts write; no bias is behind."""
  pairs = {
    "gates": ((2, 0),),
    "experts": ((2, 0), (3, 2)),
    "experts.neurons": ((2, 0), (3, 1)),
    "out": ((2, 2),),
  }.get(what)
  kind = "into" if what == "experts.neurons" else "out"
  return None if pairs is None else Weights(kind, kernel, pairs)


def _of_resnet(site) -> Weights | None:
  if site == "embedder.conv":
    at = "embedder"
  else:
    hit = _STAGE.fullmatch(site)
    if not hit:
      return None
    at = f"stages_{hit[1]}_{hit[2]}/"
    at += hit[4] or f"layers_{int(hit[3]) - 1}"
  return Weights("filter", f"{at}/kernel", ((1, 0),), f"{at}/norm/mean")


def _of_convnet(config, site) -> Weights | None:
  hit = re.fullmatch(r"layers\.(\d+)\.conv", site)
  if not hit:
    return None
  mean = f"moments/{hit[1]}/0" if config.norm == "weighted" else ""
  kernel = f"params/layers/{hit[1]}/kernel"
  return Weights("filter", kernel, ((1, 0),), mean)


def _of_mlp(config, site) -> Weights | None:
  hit = re.fullmatch(r"layers\.(\d+)\.(pre|neurons)", site)
  if not hit:
    return None
  number = int(hit[1])
  if hit[2] == "pre":
    at = f"layers_{number}"
    return Weights("out", f"{at}/kernel", ((1, 1),), f"{at}/bias")
  last = number + 1 == len(config.widths)
  at = "head" if last else f"layers_{number + 1}"
  return Weights("into", f"{at}/kernel", ((1, 0),), f"{at}/bias")
