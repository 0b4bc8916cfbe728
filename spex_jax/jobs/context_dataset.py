"""Prompts of a file as rows of a sweep: Inseq's `attribute-dataset`.

`build` of a sweep names `spex_jax.jobs.context_dataset:prompts`. A row is an
example of the file (.jsonl, or .csv with a header): its mask holds that one
alone, and its values are of one length, which `unpacked` takes apart:

  number of tokens of the source, number of steps,
  ids of the response                                           [R]
  each step's value of the target, 0 where it needs a contrast  [R]
  scores of the source, a step after the other                  [R, N]

with 0 behind what an example has. R and N are the most of any example, or of
what may be generated; where a sweep is killed it goes on, and items are methods
and targets.

Shapes: E examples, R steps at most, N tokens of the source at most.
"""

import csv
import dataclasses
import io
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base, settings
from spex_jax.context import generations, steps
from spex_jax.jobs import context_asked, context_attribute
from spex_jax.sweeps import evaluating, grid

_ANCHORS = 1  # Rows whose values show whether an item is what it was.


@dataclasses.dataclass(frozen=True)
class Prompts(grid.Plan):
  """Beside the settings of `spex context attribute`."""

  data: str = settings.field(
    "", 'a .jsonl or .csv file: a "prompt" a row, perhaps a "response"'
  )


class Row(NamedTuple):
  """An example's values.

  Attributes:
    response: int `[S]`, the token ids of the answer, one for each step.
    step_scores: float `[S]`, of the target; 0 where it cannot be printed.
    scores: float `[S, N]`, the score of each source token at each step.
  """

  response: np.ndarray
  step_scores: np.ndarray
  scores: np.ndarray


def prompts(config: Any) -> evaluating.Item:
  """The attributions of the examples of a file.

  Raises:
    FileNotFoundError: no file.
    ValueError: what is wrong with it, with the model or the settings, or more
      rows than examples.
  """
  plan, asked = settings.read(config, *classes_of())
  given = read(plan.data)
  if plan.rows > len(given):
    raise ValueError(f"rows={plan.rows:,}: the file has {len(given):,} rows.")
  net = context_asked.load(asked)
  tokenizer = context_asked.tokenizer_of(asked, net)

  def make(prompt, response):
    return generations.Generation.of_text(
      net, prompt, response, max_new_tokens=asked.max_new_tokens, bos=asked.bos
    )

  longest = most = 1
  for prompt, response in given:
    source = tokenizer.encode(prompt, bos=asked.bos).ids
    longest = max(longest, len(source))
    size = asked.max_new_tokens
    if response is not None:
      size = len(make(prompt, response).response)
    most = max(most, size)

  def values(masks: np.ndarray) -> np.ndarray:
    found = []
    for number in np.asarray(masks, bool).argmax(axis=1):
      prompt, response = given[number]
      own = make(prompt, response)
      printed = asked.target not in steps.CONTRASTED or asked.contrast
      names = (asked.target,) if printed else ()
      scored = context_attribute.attributed(
        dataclasses.replace(asked, step_scores=names), net, own
      )
      found.append(_packed(scored, most, longest))
    return np.stack(found)

  width = 2 + most * (2 + longest)
  return evaluating.Item(
    len(given),
    width,
    lambda a, b: np.arange(len(given)) == np.arange(a, b)[:, None],
    values,
    _ANCHORS,
  )


def classes_of() -> tuple[type[settings.Settings], ...]:
  """The classes of the settings of `prompts`."""
  return Prompts, context_attribute.Scoring


def unpacked(values: np.ndarray, most: int) -> Row:
  """A row's values `[2 + R (2 + N)]` taken apart; `most` is R."""
  num, size = (int(x) for x in values[:2])
  rest = np.asarray(values[2:])
  longest = len(rest) // most - 2
  scores = rest[2 * most :].reshape(most, longest)[:size, :num]
  return Row(rest[:size].astype(int), rest[most : most + size], scores)


def read(path: str) -> list[tuple[str, str | None]]:
  """Prompts and responses of a file.

  Raises:
    FileNotFoundError: there is none.
    ValueError: no file is named, it is empty, or a row has no prompt.
  """
  if not path:
    raise ValueError('data is missing: a .jsonl or .csv file with a "prompt".')
  text = context_asked.read(path, "data")
  if path.endswith(".csv"):
    rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline="")))
  else:
    rows = [row for _, row in base.json_lines(text, path)]
  found = []
  for number, row in enumerate(rows, 1):
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
      raise ValueError(f'{path}, row {number}, has no "prompt": {row}.')
    found.append((prompt, row.get("response") or None))
  if not found:
    raise ValueError(f"{path} has no row.")
  return found


def _packed(found, most, longest) -> np.ndarray:
  size, num = found.scores.shape
  pad = lambda x: np.pad(x, (0, most - size))
  (printed,) = found.step_scores.values() or (np.zeros(size),)
  scores = np.pad(found.scores, [(0, most - size), (0, longest - num)])
  ids = np.array(found.response_ids, np.float64)
  return np.concatenate([[num, size], pad(ids), pad(printed), scores.ravel()])
