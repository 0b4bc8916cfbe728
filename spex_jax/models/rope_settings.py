"""The rotary settings of a `config.json`, in any of their spellings.

`rope_parameters` is transformers' since 5, `rope_scaling` beside `rope_theta`
that of its elders; single settings may stand inside or outside. What two of
them say differently is refused, as no reader could know which one is meant.

Source of the defaults: transformers' `modeling_rope_utils`.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from spex_jax.models import reading, rope

_ALIASES = {
  "type": "rope_type",
  "rotary_emb_base": "rope_theta",
  "rotary_pct": "partial_rotary_factor",
}
# Outside alone, of models with two embeddings.
_BASES = ("global_rope_theta", "local_rope_theta", "rope_local_base_freq")
_ORIGINAL = "original_max_position_embeddings"
_OUTSIDE = (
  "rope_theta", "rotary_emb_base", "partial_rotary_factor", "rotary_pct",
  _ORIGINAL,
)  # fmt: skip
# What each scaling must set, and what it may.
_NEEDED = {
  "linear": ("factor",),
  "dynamic": ("factor",),
  "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
  "yarn": ("factor",),
  "longrope": ("short_factor", "long_factor", _ORIGINAL),
}
_OPTIONAL = {
  "yarn": (
    _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim", "truncate",
  ),
  "longrope": ("factor", "attention_factor"),
}  # fmt: skip
# Others ignore a share of a head that is rotated, where one is given.
_PARTIAL = {"gpt_neox": 0.25, "phi3": 1.0}
_THETAS = {"mixtral": 1e6}


def read(
  reader: reading.Reader, head_width: int, max_positions: int
) -> rope.Rope:
  """The one rotary embedding of a model.

  Raises:
    ValueError: a scaling that is not implemented, a setting that is missing,
      not known, of another form, or told twice in two ways; by name.
  """
  both = [
    _object(reader, name, reader.get(name, default={}))
    for name in ("rope_parameters", "rope_scaling")
  ]
  if all(both) and _plain(both[0]) != _plain(both[1]):
    raise ValueError(
      f"config.json of this {reader.family} sets rope_parameters={both[0]} and "
      f"rope_scaling={both[1]}, which disagree; leave the wrong one out."
    )
  name = "rope_parameters" if both[0] else "rope_scaling"
  outside = {key: reader.get(key, default=None) for key in _OUTSIDE}
  return of(
    reader, both[0] or both[1], outside, head_width, max_positions, name
  )


def by_kind(
  reader: reading.Reader,
  head_width: int,
  max_positions: int,
  thetas: Mapping[str, tuple[str, float]],
  scaled: Collection[str],
) -> tuple[rope.Rope, rope.Rope]:
  """The rotary embeddings of whole attention, and of windows.

  Args:
    reader: the reader of the settings.
    head_width: h, the width of a head.
    max_positions: of texts that the model was made for.
    thetas: for `full_attention` and `sliding_attention`, the older setting of
      the base, and its default.
    scaled: the kinds that `rope_scaling` is for.

  Raises:
    ValueError: as `read`.
  """
  kinds = reader.get("rope_parameters", default={})
  scaling = reader.get("rope_scaling", default={})
  found = []
  for kind, (name, default) in thetas.items():
    extra = scaling if kind in scaled else {}
    if not isinstance(kinds, dict) or not isinstance(extra, dict):
      raise ValueError(
        f"config.json of this {reader.family} sets rope_parameters={kinds!r} "
        f"and rope_scaling={extra!r}; they must be objects."
      )
    if set(kinds) - set(thetas):
      raise ValueError(
        f"config.json of this {reader.family} sets rope_parameters={kinds}; "
        f"it must hold {' and '.join(thetas)} alone."
      )
    inside = kinds.get(kind) or {}
    outside = {name: reader.get(name, default=None)}
    bases = (inside.get("rope_theta"), extra.get("rope_theta"), outside[name])
    if bases == (None, None, None):
      outside[name] = default
    where = f"rope_parameters.{kind}"
    sizes = (head_width, max_positions)
    found.append(of(reader, inside, outside, *sizes, where, extra))
  return found[0], found[1]


def of(
  reader: reading.Reader,
  inside: Mapping[str, Any],
  outside: Mapping[str, Any],
  head_width: int,
  max_positions: int,
  name: str,
  scaling: Mapping[str, Any] | None = None,
) -> rope.Rope:
  """A rotary embedding from the settings inside `name`, and those outside.

  `scaling` holds those of a `rope_scaling` that is there besides.

  Raises:
    ValueError: a scaling or a share that is not implemented, with its name.
  """
  facts = _Facts(reader, name)
  for key, value in inside.items():
    facts.tell(f"{name}.{key}", key, value)
  for key, value in (scaling or {}).items():
    facts.tell(f"rope_scaling.{key}", key, value)
  for key, value in outside.items():
    facts.tell(key, "rope_theta" if key in _BASES else key, value)
  kind = facts.take("rope_type", "default")
  if reader.family == "phi3" and kind in ("su", "yarn"):
    kind = "longrope"  # Its old names, of which the second is a misnomer.
  known = ("default", "longrope") if reader.family == "phi3" else rope.KINDS
  if kind not in known:
    raise ValueError(
      f"config.json of this {reader.family} asks for RoPE scaling {kind!r} "
      f"({name}.rope_type), which is not implemented; only {', '.join(known)}."
    )
  theta = facts.number("rope_theta", _THETAS.get(reader.family, 1e4))
  whole = _PARTIAL.get(reader.family, 1.0)
  share = facts.number("partial_rotary_factor", whole)
  if share != 1 and reader.family not in _PARTIAL:
    raise ValueError(
      f"config.json of this {reader.family} sets partial_rotary_factor="
      f"{share}, which is ignored by transformers for this family: set 1 or "
      "leave it out."
    )
  width = int(head_width * share)
  if width < 2 or width % 2 or width > head_width:
    raise ValueError(
      f"RoPE rotates pairs: partial_rotary_factor={share} of a head of "
      f"{head_width} entries (head_dim) gives {width} of this {reader.family}; "
      "it must be an even number, from 2 to all."
    )
  missing = [x for x in _NEEDED.get(kind, ()) if not facts.has(x)]
  if missing:
    raise ValueError(
      f"RoPE scaling {kind!r} of this {reader.family} must set "
      f"{', '.join(missing)}."
    )
  extra = _extra(facts, kind, max_positions)
  facts.finish({*_NEEDED.get(kind, ()), *_OPTIONAL.get(kind, ()), _ORIGINAL})
  return rope.Rope(theta, width, kind, **extra)


def _extra(facts: "_Facts", kind: str, max_positions: int) -> dict[str, Any]:
  """The further settings of a scaling."""
  if kind == "default":
    return {}
  if kind in ("linear", "dynamic"):
    extra = {"factor": facts.number("factor")}
    if kind == "dynamic":
      extra["original_positions"] = max_positions
    return extra
  original = facts.number(_ORIGINAL, max_positions)
  extra = {"original_positions": int(original)}
  if kind == "longrope":
    factor = facts.number("factor", max_positions / original)
    longer = math.sqrt(1 + math.log(max(factor, 1)) / math.log(original))
    return extra | {
      "factor": factor,
      "attention_factor": facts.number("attention_factor", longer),
      "short_factor": facts.numbers("short_factor"),
      "long_factor": facts.numbers("long_factor"),
    }
  extra["factor"] = factor = facts.number("factor")
  if kind == "llama3":
    names = ("low_freq_factor", "high_freq_factor")
    return extra | {name: facts.number(name) for name in names}
  scaled = lambda by: 0.1 * by * math.log(max(factor, 1)) + 1
  attention = scaled(1)
  if facts.has("mscale") and facts.has("mscale_all_dim"):
    attention = scaled(facts.number("mscale"))
    attention /= scaled(facts.number("mscale_all_dim"))
  return extra | {
    "attention_factor": facts.number("attention_factor", attention),
    "beta_fast": facts.number("beta_fast", 32.0),
    "beta_slow": facts.number("beta_slow", 1.0),
    "truncate": bool(facts.take("truncate", True)),
  }


class _Facts:
  """Facts by their names, each with the setting that told it."""

  def __init__(self, reader: reading.Reader, name: str):
    self._family, self._name = reader.family, name
    self._found: dict[str, tuple[str, Any]] = {}

  def tell(self, where: str, key: str, value: Any) -> None:
    """Adds a fact, unless another setting told it otherwise."""
    fact = _ALIASES.get(key, key)
    if value is None:
      return
    if fact in self._found and self._found[fact][1] != value:
      other, said = self._found[fact]
      raise ValueError(
        f"config.json of this {self._family} sets {other}={said!r} and "
        f"{where}={value!r}, which disagree; leave the wrong one out."
      )
    self._found.setdefault(fact, (where, value))

  def has(self, fact: str) -> bool:
    """Whether anything told it."""
    return fact in self._found

  def take(self, fact: str, default: Any = None) -> Any:
    """What was told."""
    return self._found.get(fact, (fact, default))[1]

  def number(self, fact: str, default: float | None = None) -> Any:
    """The same, a finite number above 0."""
    where, value = self._found.get(fact, (fact, default))
    if not reading.is_positive(value):
      raise ValueError(
        f"config.json of this {self._family} sets {where}={value!r}; it must "
        "be a finite number above 0."
      )
    return value

  def numbers(self, fact: str) -> tuple[float, ...]:
    """The same, a list of such numbers."""
    where, value = self._found[fact]
    if not isinstance(value, list) or not all(map(reading.is_positive, value)):
      raise ValueError(
        f"config.json of this {self._family} sets {where}={value!r}; it must "
        "be a list of finite numbers above 0."
      )
    return tuple(value)

  def finish(self, known: set[str]) -> None:
    """Refuses facts that nobody asked for."""
    known = known | {"rope_type", "rope_theta", "partial_rotary_factor"}
    left = {self._found[x][0]: self.take(x) for x in {*self._found} - known}
    if left:
      raise ValueError(
        f"RoPE settings of this {self._family} that are not known here: {left}."
      )


def _object(reader: reading.Reader, name: str, value: Any) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise ValueError(
      f"config.json of this {reader.family} sets {name}={value!r}; it must be "
      "an object."
    )
  return value


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
  return {"rope_type": "default"} | {
    _ALIASES.get(key, key): value for key, value in settings.items()
  }
