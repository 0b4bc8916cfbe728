"""Desiderata: what one variable does, as triples of prompts.

A desideratum is a set of triples (base, source, target) that says what the
answer to `base` becomes where the variable has the value that it has in
`source` (Davies et al. 2023, arXiv 2307.03637).

Shapes: T triples, V tokens, B of a batch.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.circuits import pair_files, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites, tokens

_NAMES = {"base": "clean", "source": "corrupted", "target": "right"}


@dataclasses.dataclass(frozen=True, eq=False)
class Desideratum:
  """Triples that say what one variable does.

  Attributes:
    name: the name of the variable.
    triples: base as `clean`, source as `corrupted`, target as `right`.
  """

  name: str
  triples: pairs_lib.Pairs

  def __len__(self) -> int:
    return len(self.triples)

  def __getitem__(self, rows: Any) -> "Desideratum":
    return dataclasses.replace(self, triples=self.triples[rows])


def from_rows(
  rows: Sequence[Mapping[str, Any]],
  tokenizer: tokens.Tokenizer | None = None,
  name: str = "variable",
  **settings: Any,
) -> tuple[Desideratum, ...]:
  """Desiderata from rows with `base`, `source` and `target`.

  Args:
    rows: each has these as texts, or `base_ids`, `source_ids`, `target_ids`;
      perhaps `desideratum`, its name, and `spans`, as for `pairs`.
    tokenizer: of the model; needed for texts.
    name: the variable of rows that name none.
    **settings: further arguments of `pairs.from_texts`.

  Raises:
    ValueError: as `pairs.from_ids` and `pairs.from_texts`, such as base and
      source of unequal length; the desideratum and the row are named.
  """
  by_name: dict[str, list[dict[str, Any]]] = {}
  for row in rows:
    own = {k: v for k, v in row.items() if k != "desideratum"}
    for old, new in _NAMES.items():
      for end in ("", "_ids"):
        if old + end in own:
          own[new + end] = own.pop(old + end)
    by_name.setdefault(str(row.get("desideratum", name)), []).append(own)
  if not by_name:
    raise ValueError("There are no triples: zero rows.")
  found = []
  for key, some in by_name.items():
    try:
      if "clean_ids" in some[0]:
        triples = pairs_lib.from_ids(some)
      elif tokenizer is None:
        raise ValueError("its rows are texts, and there is no tokenizer.")
      else:
        triples = pairs_lib.from_texts(some, tokenizer, **settings)
    except ValueError as error:
      told = str(error)
      for new, old in _NAMES.items():
        told = re.sub(rf"\b{old}(?=_ids|'| prompt| one\b| and| ans)", new, told)
      raise ValueError(f"Desideratum {key!r}: {told}") from error
    found.append(Desideratum(key, triples))
  return tuple(found)


def load(
  path: str | pathlib.Path,
  tokenizer: tokens.Tokenizer | None = None,
  **settings: Any,
) -> tuple[Desideratum, ...]:
  """Desiderata of a `.jsonl` file, a row each triple: see `from_rows`.

  Raises:
    FileNotFoundError: there is none.
    ValueError: a line that is no object of JSON; as `from_rows`.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no file {path}.")
  text = path.read_text(encoding="utf-8")
  rows = pair_files.jsonl_rows(text, path) if text.strip() else []
  return from_rows(rows, tokenizer, path.stem, **settings)


def joint(desiderata: Sequence[Desideratum]) -> Desideratum:
  """All of them as one that a mask has to meet together, as Davies has it.

  Raises:
    ValueError: spans of other names, which their places would need.
  """
  names = {x.triples.spans and x.triples.spans.names for x in desiderata}
  if len(names) > 1:
    raise ValueError(f"Desiderata have spans of different names: {names}.")
  rows = [row for x in desiderata for row in pair_files.as_rows(x.triples)]
  return Desideratum(
    " & ".join(x.name for x in desiderata), pairs_lib.from_ids(rows)
  )


def telling(
  net: sites.Network, params: Any, desideratum: Desideratum
) -> Desideratum:
  """Without the triples whose target both runs give anyway: they say nothing.

  Raises:
    ValueError: no other is left; ids that the model lacks.
  """
  triples = desideratum.triples
  triples.check(net.config.vocab_size, net.config.max_positions)
  model, given = sites.Model(net), []
  for batch in runs.batches(triples, runs.batch_size(triples)):
    given.append(runs.real_rows(batch, _both_right(model, params, batch)))
  said = np.concatenate(given)
  if said.all():
    raise ValueError(
      f"Desideratum {desideratum.name!r} has no valid example: base and source "
      f"give the target of all {len(said)} triples without any patch."
    )
  return desideratum[np.flatnonzero(~said)]


@functools.partial(jax.jit, static_argnames="model")
def _both_right(model, params, batch):
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  right = jnp.asarray(batch.right)
  given = [
    runs.logits(model.net, params, batch, corrupted=c).argmax(axis=-1)
    for c in (False, True)
  ]
  return jnp.stack([(right == x[:, None]).any(axis=1) for x in given]).all(0)
