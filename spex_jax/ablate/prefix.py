"""What does not depend on the mask is computed once.

A value function splits into a head, which no player touches, and a tail:

  f(mask) = tail(mask, head(shared), shared)

such as the layers before the first site that a player touches and those from
there on, or the keys and values of a prompt that all masks share and the
tokens after it. The caller declares the split, from the players; nothing is
inferred from the masks that happen to be drawn.

A compiler may keep what no mask reaches out of the batch, but it is computed
again in every call (and perhaps in every microbatch), and a value that merely
passes through an edit which leaves it alone counts as reached.
"""

import time
from collections.abc import Callable
from typing import Any

import jax

from spex_jax.ablate import evaluate, program


def split(
  head: Callable[[Any], Any],
  tail: Callable[..., jax.Array],
  n: int,
  *,
  shared: Any,
  **settings: Any,
) -> evaluate.Evaluator:
  """A compiled evaluator of the tail, whose head has run once.

  The head runs once, here; `stats.head_seconds` has its time, compilation
  included. The state stays on the devices, a copy on each, and counts in
  `stats.memory_bytes`.

  Args:
    head: traceable; `shared` to any pytree of arrays.
    tail: traceable; bool `[n]`, the state and `shared` to `[]` or `[T]`.
    n: number of players.
    shared: pytree of arrays that both use, such as parameters and inputs.
    **settings: of `evaluate.compiled`; a `dtype` casts `shared` before the
      head sees it, and leaves what the head returns as it is.

  Raises:
    ValueError: what `evaluate.compiled` refuses of `shared`, the mesh and the
      dtype here, and of the rest where it does.
  """
  mesh = program.mesh_of(settings.get("mesh"), settings.pop("devices", None))
  dtype = settings.pop("dtype", None)
  specs = settings.pop("shared_sharding", None)
  settings["mesh"] = mesh
  begin = time.perf_counter()
  places = program.places(shared, specs, mesh)
  shared = jax.device_put(program.cast(shared, dtype), places)
  everywhere = jax.NamedSharding(mesh, jax.P())
  state = jax.jit(head, out_shardings=everywhere)(shared)
  jax.block_until_ready(state)
  seconds = time.perf_counter() - begin
  both = (
    jax.tree.map(lambda leaf: jax.P(), state),
    jax.tree.map(lambda place: place.spec, places),
  )
  evaluator = evaluate.compiled(
    lambda mask, operands: tail(mask, *operands),
    n,
    shared=(state, shared),
    shared_sharding=both,
    **settings,
  )
  evaluator.stats.head_seconds = seconds
  return evaluator
