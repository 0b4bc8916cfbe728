"""Checkpoint tensors to parameters, by a table of rules.

A rule takes the tensors whose key its pattern matches in full, transforms
them and puts them at a path of the parameters. Nothing may be left over: not
a tensor that no rule takes, not a parameter that none fills.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Transform = Callable[[np.ndarray, Any], np.ndarray]


class Rule(NamedTuple):
  r"""One line of a family's table.

  Attributes:
    pattern: regular expression that matches the whole of a tensor's key.
    path: the path of the parameter, joined by "/"; may name groups,
      `blocks_\1/...`. "" drops the tensor: one that the model computes for
      itself, or that its output does not need. A number behind it,
      `kernel[\2]`, is that of a slice along axis 0: the parameter is filled
      when all slices are there.
    transform: name of an entry of `TRANSFORMS`, with an argument behind a
      colon: "heads_in:q".
    copy: whether the tensor is saved again: it must equal what another rule
      puts at the path, and fills it where that is missing.
    computed: of a dropped tensor that a network could use: what the model has
      in its place, which it must equal to rounding. None for any other.
  """

  pattern: str
  path: str
  transform: str = ""
  copy: bool = False
  computed: np.ndarray | None = None


def of_head(pattern: str, tied: bool) -> Rule:
  """The rule of an output matrix that may be the embedding table."""
  if tied:
    return Rule(pattern, "tokens/table", copy=True)
  return Rule(pattern, "head/kernel", "transpose")


def _split_in(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """`[N h, d]` (or `[N h]`) of the output-first layout to `[d, N, h]`."""
  num = config.num_heads if part == "q" else config.num_kv_heads
  heads = _reshape(x, (num, config.head_width, *x.shape[1:]))
  return heads if x.ndim == 1 else heads.transpose(2, 0, 1)


def _split_out(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """`[d, H h]` to `[H, h, d]`."""
  del part
  heads = (config.num_heads, config.head_width)
  return _reshape(x.T, (*heads, x.shape[0]))


def _rows(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """Of fused q, k, v rows `[(H + 2K) h, ...]`, those of one."""
  h = config.head_width
  q, k = config.num_heads * h, config.num_kv_heads * h
  _check_first(x, q + 2 * k)
  start, stop = {"q": (0, q), "k": (q, q + k), "v": (q + k, q + 2 * k)}[part]
  return _split_in(x[start:stop], config, part)


def _columns(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """The same of fused columns `[d, 3 H h]` (or `[3 H h]`), as in GPT-2."""
  return _rows(x.T, config, part)


def _interleaved(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """Of rows fused head by head `[H 3 h, ...]`, as in GPT-NeoX, those of one."""
  shape = (config.num_heads, 3, config.head_width, *x.shape[1:])
  heads = _reshape(x, shape)[:, "qkv".index(part)]
  return heads if x.ndim == 1 else heads.transpose(2, 0, 1)


def _half(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """The first or second half of fused rows `[2 F, d]`, transposed."""
  _check_first(x, 2 * config.num_neurons)
  at = int(part) * config.num_neurons
  return x[at : at + config.num_neurons].T


def _expert_half(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """Of fused rows of every expert `[E, 2 F, d]`, one half: `[E, d, F]`."""
  size = config.mixture.num_neurons
  if x.ndim != 3 or x.shape[1] != 2 * size:
    raise _Misfit(f"it must have {2 * size} fused rows for every expert")
  at = int(part) * size
  return x[:, at : at + size].transpose(0, 2, 1)


def _each(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """The matrix of every expert `[E, a, b]`, transposed."""
  del config, part
  if x.ndim != 3:
    raise _Misfit("it must have three axes, the first of experts")
  return x.transpose(0, 2, 1)


def _heads_out_first(x: np.ndarray, config: Any, part: str) -> np.ndarray:
  """`[H h, d]`, the input first as in GPT-2, to `[H, h, d]`."""
  del part
  return _reshape(x, (config.num_heads, config.head_width, *x.shape[1:]))


TRANSFORMS: dict[str, Callable[[np.ndarray, Any, str], np.ndarray]] = {
  "": lambda x, config, part: x,
  "transpose": lambda x, config, part: x.T,
  "squeeze": lambda x, config, part: _reshape(x, x.shape[1:]),
  "patches": lambda x, config, part: x.reshape(x.shape[0], -1).T,
  "heads_in": _split_in,
  "heads_out": _split_out,
  "heads_out_first": _heads_out_first,
  "fused_rows": _rows,
  "fused_columns": _columns,
  "fused_heads": _interleaved,
  "half": _half,
  "expert_half": _expert_half,
  "each": _each,
}


def assign(
  rules: Sequence[Rule],
  tensors: Iterator[tuple[str, Callable[[], np.ndarray]]],
  shapes: Mapping[str, tuple[int, ...]],
  config: Any,
  place: Callable[[str, np.ndarray], Any],
) -> dict[str, Any]:
  """Parameters by path, from tensors by key; all faults in one message.

  Args:
    rules: every rule whose pattern matches a key applies to it.
    tensors: key and a function that reads the tensor, one at a time.
    shapes: path to the shape of every parameter.
    config: the configuration of the network, for the transforms.
    place: path and array to what is kept: cast, on its device; may raise
      `Unfit`.

  Raises:
    ValueError: naming every key that no rule takes, every parameter that none
      fills or two fill, every tensor that does not fit, every copy that is
      none.
  """
  compiled = [(re.compile(rule.pattern), rule) for rule in rules]
  found: dict[str, Any] = {}
  sources: dict[str, tuple[str, Callable[[], np.ndarray]]] = {}
  copies: list[tuple[str, Callable[[], np.ndarray], Rule, str]] = []
  slices: dict[str, dict[int, np.ndarray]] = {}
  faults: list[str] = []

  def fill(key: str, read: Callable[[], np.ndarray], rule: Rule, path: str):
    whole, _, index = path.partition("[")
    number = int(index[:-1]) if index else -1
    if whole not in shapes or number >= shapes[whole][0]:
      faults.append(f"{key!r} has no place: the model has no {path!r}")
      return
    if path in found or whole in found:
      faults.append(f"{key!r} would fill {path!r} a second time")
      return
    name, _, part = rule.transform.partition(":")
    tensor = read()
    found[path], sources[path] = None, (key, read)
    try:
      array = TRANSFORMS[name](tensor, config, part)
    except _Misfit as error:
      faults.append(f"{key!r} has shape {tensor.shape}: {error}")
      return
    shape = shapes[whole][1:] if index else shapes[whole]
    if array.shape != shape:
      faults.append(
        f"{key!r} of shape {tensor.shape} gives {path!r} the shape "
        f"{array.shape}; it must be {shape}"
      )
      return
    if index:
      filled = slices.setdefault(whole, {})
      filled[number] = array
      if len(filled) < shapes[whole][0]:
        return
      array = np.stack([filled[i] for i in range(len(filled))])
      del slices[whole]
    try:
      found[whole] = place(whole, array)
    except Unfit as error:
      faults.append(f"{key!r}{' or one beside it' if index else ''} {error}")

  # Tensors by the rules that take them; copies wait for what they copy.
  for key, read in tensors:
    hits = [(m, r) for p, r in compiled if (m := p.fullmatch(key))]
    if not hits:
      faults.append(f"no rule takes the tensor {key!r}")
    for hit, rule in hits:
      path = hit.expand(rule.path)
      if path and rule.copy:
        copies.append((key, read, rule, path))
      elif path:
        fill(key, read, rule, path)
      elif rule.computed is not None and (
        fault := _strays(read(), rule.computed)
      ):
        faults.append(
          f"{key!r} would be computed from config.json, but {fault}"
        )
  # A copy fills what nothing filled, or must be equal.
  for key, read, rule, path in copies:
    if path not in found:
      fill(key, read, rule, path)
    elif fault := _differs(read(), sources[path][1]()):
      faults.append(
        f"{key!r} must be a copy of {sources[path][0]!r}, as config.json says "
        f"or implies (tie_word_embeddings), but {fault}"
      )
  # Nothing may be left empty.
  faults += [
    f"no tensor fills {path!r} {shapes[path]}"
    + (f", of which {len(slices[path])} are there" if path in slices else "")
    for path in shapes
    if path not in found
  ]
  if faults:
    raise ValueError(
      f"The checkpoint does not fit its configuration ({len(faults)} faults):"
      + "".join(f"\n  {fault}" for fault in faults)
    )
  return {path: found[path] for path in shapes}


def _differs(x: np.ndarray, y: np.ndarray) -> str:
  """How a copy differs from its original, or ""."""
  if x.shape != y.shape:
    return f"their shapes are {x.shape} and {y.shape}"
  if (x == y).all():
    return ""
  return f"{int((x != y).sum()):,} of {x.size:,} numbers differ"


def _strays(x: np.ndarray, computed: np.ndarray) -> str:
  """How a table of sines differs from its own, or ""."""
  if x.shape != computed.shape:
    return f"its shape is {x.shape}, not {computed.shape}"
  # Numbers of up to 1, rounded as they are stored, of angles of up to as many
  # radians as there are rows, which float32 rounds by a part in 2^24.
  atol = float(jnp.finfo(x.dtype).eps) + len(x) * 2.0**-23
  far = ~(np.abs(x.astype(np.float64) - computed) <= atol)
  return f"{int(far.sum()):,} of {x.size:,} numbers differ" if far.any() else ""


class Unfit(Exception):
  """A tensor whose values cannot be kept; says why behind its key."""


class _Misfit(Exception):
  """A tensor whose shape a transform cannot take."""


def _reshape(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  if int(np.prod(shape)) != x.size:
    raise _Misfit(f"it cannot be split into {shape}")
  return x.reshape(shape)


def _check_first(x: np.ndarray, size: int) -> None:
  if x.shape[0] != size:
    raise _Misfit(f"it must have {size} fused rows")
