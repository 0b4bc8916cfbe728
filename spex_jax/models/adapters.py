"""Your own Flax module behind the face of `sites.Network`, unchanged.

`linen` intercepts the methods of a module's parts; `nnx_module` splits an NNX
module and puts taps around its parts. Either way a site is declared as the
output of a part:

    net = adapters.linen(Classifier(), {"x": (1, 8)}, {"neurons": "hidden"})
    out = net.apply(params, sites.Edits(scale={"neurons": mask[None]}), x=rows)

The module is called with the inputs as keyword arguments; it gives logits, or
a pair of logits and a tuple of hidden states. A site must be one array, and a
part that runs twice in a forward can be none, because an edit could not tell
the two apart. Nor can a part inside a lifted transformation (`nn.scan`,
`nnx.remat`): what a tap records would not leave it.
"""

import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import sites

_NO_EDGES = (
  "what a module of your own writes to a residual stream is not known here. "
  "Use edits."
)


class Part(NamedTuple):
  """Where a site is: the output of a method of a part.

  Attributes:
    path: the path of the part inside its module, joined by "/" (linen) or "."
      (NNX), as in the tree of parameters; "" for the module itself.
    method: the name of the method whose output it is.
  """

  path: str
  method: str = "__call__"


# Name of an input to its shape with one row, in float32, or to both.
Shapes = Mapping[str, tuple[int, ...] | jax.ShapeDtypeStruct]
Places = Mapping[str, str | Part]  # Site to the path of a part, or to a Part.


def linen(module: nn.Module, inputs: Shapes, places: Places) -> sites.Network:
  """A linen module as a network.

  Args:
    module: unbound, and called without further variables than its own.
    inputs: name to the shape with one row (float32), or to a shape and dtype.
    places: site to the part whose output it is, in any order.

  Returns:
    A network whose sites stand in the order of computation. Its parameters are
    what `module.init` gives, all collections or "params" alone.

  Raises:
    ValueError: no site, one of which a forward sees nothing, or more than one
      output, or no single array, or two sites at one place.
  """
  return _network(_Linen(module, _parts(places)), inputs)


def nnx_module(
  module: Any, inputs: Shapes, places: Places
) -> tuple[sites.Network, Any]:
  """An NNX module as a network, and its parameters.

  The module is split once and left as it is; a copy is merged and tapped for
  each trace. What it changes in its own state while it runs (averages of batch
  norm, counts of random keys) is dropped.

  Args:
    module: an `nnx.Module`, set as it should run (`module.eval()`).
    inputs: name to the shape with one row (float32), or to a shape and dtype.
    places: site to the path of a part, such as "blocks.0.mlp".

  Returns:
    The network, and the state that `net.apply` takes as parameters.

  Raises:
    ValueError: as `linen`; or a path that leads nowhere, a method other than
      `__call__`, or the module itself as a part.
  """
  from flax import nnx  # Only for those who use it.

  parts = _parts(places)
  for part, site in parts.items():
    if part.method != "__call__" or not part.path:
      raise ValueError(
        f"Site {site!r} must be the output of a part of the NNX module, by "
        f"its __call__; got {part}."
      )
  definition, state = nnx.split(module)
  return _network(_Nnx(definition, parts), inputs, state), state


@dataclasses.dataclass(frozen=True)
class _Linen:
  """What `sites.Network` asks of its module."""

  module: nn.Module
  parts: Mapping[Part, str]

  def init(self, key: base.Key, tap: Any, **inputs: Any) -> dict[str, Any]:
    del tap
    return {"params": self.module.init(key, **inputs)}

  def apply(self, variables: Any, tap: Any, **inputs: Any) -> Any:
    own = variables["params"]
    own = own if "params" in own else {"params": own}

    def interceptor(call, args, kwargs, context):
      out = call(*args, **kwargs)
      part = Part("/".join(context.module.path), context.method_name)
      return _tapped(tap, self.parts.get(part), out)

    with nn.intercept_methods(interceptor):
      return _pair(self.module.apply(own, **inputs))


@dataclasses.dataclass(frozen=True)
class _Nnx:
  """The same of an NNX module."""

  definition: Any
  parts: Mapping[Part, str]

  def init(self, key: base.Key, tap: Any, **inputs: Any) -> dict[str, Any]:
    raise TypeError(
      "An NNX module is made with its parameters: make another one, and "
      "adapt that."
    )

  def apply(self, variables: Any, tap: Any, **inputs: Any) -> Any:
    from flax import nnx

    module = nnx.merge(self.definition, variables["params"])
    # The innermost first: a tapped part hides those inside it.
    for part in sorted(self.parts, key=lambda part: -part.path.count(".")):
      _wrap(module, part.path, tap, self.parts[part])
    return _pair(module(**inputs))


class _Tapped:
  """A part of an NNX module whose output passes a tap."""

  def __init__(self, part: Any, tap: Any, site: str):
    self._part, self._tap, self._site = part, tap, site

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return _tapped(self._tap, self._site, self._part(*args, **kwargs))

  def __getattr__(self, name: str) -> Any:
    return getattr(self._part, name)

  def __getitem__(self, index: Any) -> Any:
    return self._part[index]


def _wrap(module: Any, path: str, tap: Any, site: str) -> None:
  """Puts a tap around the part at `path`, inside `module`."""
  parent, *rest = module, *path.split(".")
  for name in rest[:-1]:
    parent = _child(parent, name, path)
  name = rest[-1]
  wrapped = _Tapped(_child(parent, name, path), tap, site)
  if hasattr(parent, name):
    # Past the checks of `nnx.Module`: this copy lives for one trace.
    object.__setattr__(parent, name, wrapped)
  elif isinstance(parent, MutableMapping):
    parent[name] = wrapped
  else:
    parent[int(name)] = wrapped


def _child(parent: Any, name: str, path: str) -> Any:
  if hasattr(parent, name):
    return getattr(parent, name)
  try:
    return parent[name if isinstance(parent, Mapping) else int(name)]
  except (KeyError, IndexError, TypeError, ValueError):
    raise ValueError(
      f"The path {path!r} leads nowhere: a {type(parent).__name__} has no "
      f"{name!r}."
    ) from None


def _tapped(tap: Any, site: str | None, out: Any) -> Any:
  if site is None:
    return out
  if not isinstance(out, jax.Array):
    raise ValueError(
      f"Site {site!r} must be one array; its part gives a "
      f"{type(out).__name__}. Declare a part inside it."
    )
  return tap(site, out)


def _pair(out: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  if isinstance(out, jax.Array):
    return out, ()
  if isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], jax.Array):
    return out[0], tuple(out[1])
  raise ValueError(
    "A module must give logits, or logits and a tuple of hidden states; got a "
    f"{type(out).__name__}."
  )


def _parts(places: Places) -> dict[Part, str]:
  if not places:
    raise ValueError("Declare at least one site.")
  parts: dict[Part, str] = {}
  for site, place in places.items():
    part = Part(place) if isinstance(place, str) else place
    if part in parts:
      raise ValueError(f"Sites {parts[part]!r} and {site!r} are both {part}.")
    parts[part] = site
  return parts


def _network(face: Any, inputs: Shapes, params: Any = None) -> sites.Network:
  """A network around `face`, whose sites one abstract forward puts in order."""
  example = {
    name: spec
    if isinstance(spec, jax.ShapeDtypeStruct)
    else jax.ShapeDtypeStruct(tuple(spec), jnp.float32)
    for name, spec in inputs.items()
  }
  seen: list[str] = []

  def note(site, x):
    seen.append(site)
    return x

  def forward(params, inputs):
    if params is None:
      params = face.init(jax.random.key(0), note, **inputs)["params"]
      seen.clear()
    face.apply({"params": params}, note, **inputs)

  jax.eval_shape(forward, params, example)
  for part, site in face.parts.items():
    if seen.count(site) != 1:
      raise ValueError(
        f"Site {site!r}, {part}, must have one output in a forward; it has "
        f"{seen.count(site)}."
      )
  return sites.Network(
    module=face,
    config=None,
    sites=tuple(seen),
    example=example,
    no_edges=_NO_EDGES,
  )
