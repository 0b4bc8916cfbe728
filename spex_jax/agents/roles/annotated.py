"""AgenticInterpBench's files: circuits whose parts have a role by hand.

Of 84 small transformers that were trained to have a known circuit, 163 parts
with a tag of five and a note (Khan et al., arXiv 2606.24026; Hugging Face,
`Antik/AgenticInterpBench`, MIT). Read as its card describes it: a part is

  {"id": "L1H2_ATTN", "hook": "blocks.1.attn.hook_result[2]",
   "role": {"tag": "AGGREGATOR", "note": "..."}, "labels": ["frac_prevs_1"]}

The card does not name the field that holds a file's parts; they are the one
list of such entries in it, and all else (task, examples, program, model) is
kept as it is. Nothing of the benchmark is here.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from spex_jax.agents.roles import claims

_HOOK = re.compile(
  r"blocks\.(\d+)\.(?:attn\.hook_(?:result|z)\[(\d+)\]|mlp\.hook_post"
  r"|hook_mlp_out)"
)


class Component(NamedTuple):
  """A part, and what it does.

  Attributes:
    id: the part's name in its case, such as "L0_MLP".
    hook: where it is, as TransformerLens names it.
    writer: the same as `sites.Network.writers` name it; "" of another hook.
    tag: the word of the taxonomy for its role.
    note: what it does, in words.
    labels: the variables of the program that it computes.
  """

  id: str
  hook: str
  writer: str
  tag: str
  note: str
  labels: tuple[str, ...]


class Case(NamedTuple):
  """A circuit.

  Attributes:
    name: the name of its file.
    components: the parts of the circuit, each with its role.
    rest: the other fields, as they are.
  """

  name: str
  components: tuple[Component, ...]
  rest: Mapping[str, Any]

  @property
  def roles(self) -> list[claims.Role]:
    """What the annotators claim to be alike: parts by tag.

    A role of MLPs, or of MLPs and heads, cannot be judged by swaps; its verdict
    says so.
    """
    found: dict[str, list[Component]] = {}
    for own in self.components:
      found.setdefault(own.tag, []).append(own)
    return [
      claims.Role(
        "; ".join(c.note for c in own),
        tuple(c.writer or c.hook for c in own),
        tag,
      )
      for tag, own in found.items()
    ]

  def accuracy(self, tags: Mapping[str, str]) -> float:
    """The share of parts whose tag is right; a part without an answer is not.

    Args:
      tags: a part's id to the tag that was answered.

    Raises:
      ValueError: an answer for a part that there is not.
    """
    known = {own.id: own.tag for own in self.components}
    if odd := sorted(tags.keys() - known.keys()):
      raise ValueError(f"{self.name} has no {odd[0]!r}; it has {[*known]}.")
    return sum(tags.get(i) == tag for i, tag in known.items()) / len(known)


def read(path: str | os.PathLike) -> Case:
  """The circuit of a file.

  Raises:
    FileNotFoundError: there is none.
    ValueError: no JSON, no list of parts or several, a part that lacks
      something; each with the file.
  """
  file = pathlib.Path(path)
  try:
    body = json.loads(file.read_text())
    lists = [*_lists(body)]
    if len(lists) != 1:
      raise ValueError(
        f"{len(lists)} lists of parts with id, hook and role; one is needed"
      )
    (found,) = lists
    parts = tuple(map(_component, found))
    if len({part.id for part in parts}) < len(parts):
      raise ValueError("two parts have one id")
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{file}: {error}.") from error
  rest = {
    name: value
    for name, value in (body.items() if isinstance(body, dict) else ())
    if value is not found
  }
  return Case(file.stem, parts, rest)


def _lists(body: Any) -> Iterator[list[Any]]:
  """Lists of parts, wherever they stand."""
  is_part = lambda x: isinstance(x, dict) and {"id", "hook"} <= x.keys()
  if isinstance(body, list) and body and all(map(is_part, body)):
    yield body
  elif isinstance(body, dict | list):
    for value in body.values() if isinstance(body, dict) else body:
      yield from _lists(value)


def _component(given: Mapping[str, Any]) -> Component:
  name, hook, role = (given.get(key) for key in ("id", "hook", "role"))
  labels = given.get("labels", [])
  if not (
    isinstance(name, str)
    and isinstance(hook, str)
    and isinstance(role, dict)
    and all(isinstance(role.get(key), str) for key in ("tag", "note"))
    and isinstance(labels, list)
  ):
    raise ValueError(
      f"the part {name!r} needs texts id and hook, and a role of tag and note"
    )
  return Component(
    name, hook, _writer(hook), role["tag"], role["note"],
    tuple(map(str, labels)),
  )  # fmt: skip


def _writer(hook: str) -> str:
  found = _HOOK.fullmatch(hook)
  if found is None:
    return ""
  end = "mlp" if found[2] is None else f"heads.{found[2]}"
  return f"blocks.{found[1]}.{end}"
