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

`split` takes any head and tail; `evaluator` is the one of a prompt's shared
beginning, `components.evaluator` that of layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import absent, evaluate, readouts, shapes
from spex_jax.ablate import text as text_lib
from spex_jax.models import generate, inputs, sites, transformer


def split(
  head: Callable[[Any], Any],
  tail: Callable[..., jax.Array],
  n: int,
  *,
  shared: Any,
  **settings: Any,
) -> evaluate.Evaluator:
  """A compiled evaluator of the tail, whose head has run once.

  The head runs once, before the first mask; `stats.head_seconds` has its time,
  compilation included. The state stays on the devices, a copy on each, and
  counts in `stats.memory_bytes`.

  Args:
    head: traceable; `shared` to any pytree of arrays.
    tail: traceable; bool `[n]`, the state and `shared` to `[]` or `[T]`; or a
      `shapes.Shaped` of such functions.
    n: the number of players, the length of a mask.
    shared: pytree of arrays that both use, such as parameters and inputs.
    **settings: further arguments of `evaluate.compiled`.

  Raises:
    ValueError: what `evaluate.compiled` refuses, where it does.
  """
  joined = lambda tail: lambda mask, both: tail(mask, *both)
  f = tail.wrap(joined) if isinstance(tail, shapes.Shaped) else joined(tail)
  return evaluate.compiled(f, n, shared=shared, head=head, **settings)


def evaluator(
  net: sites.Network,
  prompt: text_lib.Prompt,
  read: readouts.Prediction,
  way: str = "mask",
  *,
  token: int | str | None = None,
  lengths: Sequence[int] = (),
  length: int | None = None,
  edits: sites.Edits | None = None,
  params: Any = None,
  tokenizer: Any = None,
  **settings: Any,
) -> evaluate.Evaluator:
  """A compiled evaluator of a prompt whose beginning no player touches.

  The keys and values of that beginning are computed once; every mask runs the
  tokens behind it alone. Where absent tokens are removed, what follows them
  moves and is numbered anew, as without a shared prefix; the prefix itself
  stands still. Rows may be of several lengths, prefix included.

  Args:
    net: a causal language model, with its parameters or without.
    prompt: the tokens of the text, and the player of each.
    read: `readouts.logit`, `log_probability`, `margin` or `continuation`.
    way: what becomes of absent tokens; of `absent.WAYS`.
    token: what absent tokens become, as for `absent.inputs`.
    lengths: the lengths of rows, as for `absent.inputs`.
    length: how many tokens to share; by default all but one of those before
      the first that a player has, which is run again because what follows the
      prefix may be read there.
    edits: what is done to the network under every mask; its positions are
      those of the prompt's tokens, or 1. Rows then have one length.
    params: the parameters of the network; its own by default.
    tokenizer: the tokenizer of the model; the network's by default.
    **settings: further arguments of `evaluate.compiled`.

  Raises:
    TypeError: no causal model, or a readout that is none of those.
    ValueError: a player within the prefix, a prefix that is empty, a
      prediction that is read within it, a text that the model does not take,
      no parameters or no tokenizer; see `absent.inputs`.
  """
  if not isinstance(net.module, transformer.Decoder):
    raise TypeError(
      f"{type(net.module).__name__} is no causal language model: its first "
      "tokens see the later ones, so that nothing of them can be shared."
    )
  if not isinstance(read, readouts.Prediction):
    raise TypeError(
      "A shared prefix needs a readout of a few predictions: logit, "
      "log_probability, margin or continuation of `readouts`."
    )
  params = net.params if params is None else params
  tokenizer = net.tokenizer if tokenizer is None else tokenizer
  if params is None or tokenizer is None:
    raise ValueError("Give the params and tokenizer that the network lacks.")
  config: transformer.Config = net.config
  ids = prompt.encoding.ids[None]
  inputs.check_ids(ids, config.vocab_size, config.max_positions)
  start = _shared_length(prompt, length)
  if edits is not None:
    lengths = ()
  # The token behind the prefix is run again.
  lengths = [max(each, start + 1) for each in lengths]
  see = absent.inputs(prompt, tokenizer, way, token=token, lengths=lengths)
  for kept in (True, False):
    first = int(read.where(see(np.full(prompt.n, kept))).min())
    if first < start:
      raise ValueError(
        f"A prediction is read at token {first}, within the {start} tokens "
        f"that are shared: share fewer, length={first} or less."
      )
  num_slots = prompt.num_tokens

  def head(shared):
    params, edits = shared
    dtype = jax.tree.leaves(params)[0].dtype
    caches = generate.empty_caches(config, 1, num_slots, dtype)
    # Its logits are not asked for, so they are not computed.
    early = jnp.asarray(ids[:, :start])
    return generate.extend(net, params, early, 0, caches, edits).caches

  def at(size):
    def tail(mask, caches, shared):
      params, edits = shared
      given = see.at(size)(mask)
      places = read.where(given)
      # One before the prefix has no logits here: NaN, which is refused.
      places = jnp.where(places < start, num_slots, places - start)
      own = given.get("position_ids")
      out = generate.extend(
        net,
        params,
        given["input_ids"][:, start:],
        start,
        jax.tree.map(lambda slots: slots[:, :size], caches),
        edits,
        places,
        given["attention_mask"],
        position_ids=None if own is None else own[:, start:],
      )
      return read.of(out.logits, given)[0]

    return tail

  tail = readouts.packed(see, net, read, at)
  return split(head, tail, prompt.n, shared=(params, edits), **settings)


def _shared_length(prompt: text_lib.Prompt, length: int | None) -> int:
  """How many tokens are shared: at least 1, and before every player's."""
  owned = prompt.players.owner < prompt.n
  first = int(owned.argmax())
  name = prompt.names[prompt.players.owner[first]]
  if length is not None and base.check_integer(length, "length") > first:
    raise ValueError(
      f"Player {name!r} has token {first}, within the first {length} that "
      "were to be shared."
    )
  start = first - 1 if length is None else min(length, first - 1)
  if start < 1:
    raise ValueError(
      f"Player {name!r} has token {first}, and length is {length}: nothing "
      "stands before it that could be shared. Use readouts.value."
    )
  return start
