"""Who describes roles: a script that compares edges, or a language model.

Both are told what edges into and out of each head are worth. Two heads of one
role read from and write to the same: so the script clusters their profiles (a
head's scores of all edges that leave it, beside those of all that lead to its
queries, keys and values), after attribution profiles of features (arXiv
2604.07615); what it says of a cluster is where its strongest edges come from
and go to.

Shapes: E edges, W writers, S rows of readers, H heads.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.agents import llm
from spex_jax.agents.roles import claims
from spex_jax.circuits import graph as graph_lib

_SHOWN = 4  # Edges of a head, either way, that a model is told of.
_ROLE = re.compile(r"^\s*\[ROLE\]:?\s*(.+)$", re.M)
_TASK = """\
You study a circuit of a transformer. Of each of its heads you see the strongest
edges into it (by its queries, keys and values) and out of it, with what they
are worth for the task.

{heads}

Which heads do the same? Put all of them into roles, one line each and no head
twice; a role may be of one head:
[ROLE] what these heads do | blocks.1.heads.0, blocks.1.heads.3
"""


def profiles(
  scores: base.Array, graph: graph_lib.Graph, heads: Sequence[str]
) -> np.ndarray:
  """What edges of heads are worth: float64 `[H, S + 3 W]`, of length 1.

  First those that leave a head, by where they lead; then those that lead to its
  query, key and value row, by who wrote. Both halves have one length.

  Args:
    scores: float `[E]`, one for each edge of the graph.
    graph: the graph that the edges are of.
    heads: writers, such as "blocks.1.heads.0".

  Raises:
    ValueError: scores of another graph, a head that there is not.
  """
  table = _table(scores, graph)
  found = []
  for head in heads:
    number = _number(graph, head)
    halves = (table[:, number], table[graph.fed[:, number]].ravel())
    halves = [half / max(np.linalg.norm(half), 1e-30) for half in halves]
    found.append(np.concatenate(halves) / np.sqrt(2))
  return np.stack(found)


def scripted(
  scores: base.Array,
  graph: graph_lib.Graph,
  heads: Sequence[str],
  least: float = 0.5,
) -> list[claims.Role]:
  """Clusters heads by the cosine of their profiles, by average linkage.

  Args:
    scores: float `[E]`, one for each edge of the graph.
    graph: the graph that the edges are of.
    heads: writers, such as "blocks.1.heads.0".
    least: mean cosine within a role, in [-1, 1].

  Raises:
    ValueError: as `profiles`.
  """
  from scipy.cluster import hierarchy  # Slow to import.
  from scipy.spatial import distance

  own = profiles(scores, graph, heads)
  if len(heads) < 2:
    groups = np.ones(len(heads), int)
  else:
    apart = distance.squareform(np.maximum(1 - own @ own.T, 0), checks=False)
    tree = hierarchy.linkage(apart, "average")
    groups = hierarchy.fcluster(tree, 1 - least, "distance")
  found = []
  for group in dict.fromkeys(groups.tolist()):
    parts = tuple(head for head, g in zip(heads, groups) if g == group)
    into, out = _ends(scores, graph, parts)
    found.append(claims.Role(f"reads {into[0][0]}, writes {out[0][0]}", parts))
  return found


@dataclasses.dataclass(frozen=True)
class Told:
  """What a model made of a circuit.

  Attributes:
    roles: the roles that it described; none where it failed.
    transcript: the messages of the talk, in order.
    error: why it failed, or "".
  """

  roles: tuple[claims.Role, ...]
  transcript: tuple[dict[str, Any], ...]
  error: str = ""


def asked(
  chat: llm.Chat,
  scores: base.Array,
  graph: graph_lib.Graph,
  heads: Sequence[str],
  rounds: int = 3,
) -> Told:
  """Has a language model describe the roles of heads.

  A reply that cannot be read is told so, and asked again; what ends a talk (a
  budget, the endpoint) is in `Told.error`.

  Args:
    chat: the language model that answers.
    scores: float `[E]`, one for each edge of the graph.
    graph: the graph that the edges are of.
    heads: writers, such as "blocks.1.heads.0".
    rounds: how many times a reply is asked for, at most.

  Raises:
    ValueError: as `profiles`.
  """
  lines = []
  for head in heads:
    into, out = _ends(scores, graph, (head,))
    say = lambda ends: "; ".join(f"{n} {v:+.3g}" for n, v in ends[:_SHOWN])
    lines.append(f"{head}: in {say(into)}. out {say(out)}.")
  task = _TASK.format(heads="\n".join(lines))
  messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
  said = "no reply"
  for _ in range(rounds):
    try:
      reply = chat.chat(messages)
    except llm.ENDS as error:
      said = f"{type(error).__name__}: {error}"
      break
    messages.append({"role": "assistant", "content": reply.text})
    try:
      return Told(read(reply.text, heads), tuple(messages))
    except ValueError as error:
      said = f"The reply cannot be read: {error}"
      messages.append({"role": "user", "content": said})
  return Told((), tuple(messages), said[:300])


def read(text: str, heads: Sequence[str]) -> tuple[claims.Role, ...]:
  """The roles in a reply.

  Raises:
    ValueError: none, a head that was not asked about, one twice or left out.
  """
  found, used = [], []
  for line in _ROLE.findall(text):
    note, bar, listed = line.rpartition("|")
    parts = tuple(listed.replace(",", " ").split())
    if not bar or not parts:
      raise ValueError(f"no | and heads behind it in {line!r}.")
    found.append(claims.Role(note.strip(), parts))
    used += parts
  if not found:
    raise ValueError("no line [ROLE] what | heads.")
  for head in used:
    if head not in heads:
      raise ValueError(f"{head!r} was not asked about.")
  if twice := sorted({head for head in used if used.count(head) > 1}):
    raise ValueError(f"{', '.join(twice)} twice.")
  if lost := [head for head in heads if head not in used]:
    raise ValueError(f"{', '.join(lost)} in no role.")
  return tuple(found)


def _table(scores: base.Array, graph: graph_lib.Graph) -> np.ndarray:
  """Scores by row of a reader and by writer, `[S, W]`."""
  given = np.asarray(scores, np.float64)
  if given.shape != (graph.num_edges,):
    raise ValueError(
      f"scores: {graph.num_edges} edges, not {list(given.shape)}."
    )
  found = np.zeros(graph.fed.shape)
  found[graph.slot, graph.writer] = given
  return found


def _number(graph: graph_lib.Graph, head: str) -> int:
  if ".heads." not in head or head not in graph.writers:
    raise ValueError(f"No head {head!r} here, such as blocks.0.heads.0.")
  return graph.writers.index(head)


def _ends(scores, graph, heads):
  """The names of what heads read from and write to, with sums of scores."""
  given = np.asarray(scores, np.float64)
  numbers = [_number(graph, head) for head in heads]
  read_by = graph.fed[:, numbers].any(1)[graph.slot]
  into: dict[str, float] = {}
  out: dict[str, float] = {}
  for edge in np.flatnonzero(read_by):
    writer, reader, _ = graph.edge(int(edge))
    name = f"{writer} by {reader.rpartition('.')[2][0]}"
    into[name] = into.get(name, 0.0) + given[edge]
  for edge in np.flatnonzero(np.isin(graph.writer, numbers)):
    _, reader, row = graph.edge(int(edge))
    name = f"{reader}[{row}]" if "attn" in reader else reader
    out[name] = out.get(name, 0.0) + given[edge]
  order = lambda ends: sorted(ends.items(), key=lambda end: -abs(end[1]))
  return order(into), order(out)
