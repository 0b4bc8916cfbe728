"""The words of `spex context`: settings and what runs them."""

import pathlib
from collections.abc import Mapping
from typing import Any

from spex_jax import settings
from spex_jax.jobs import context, context_attribute, context_cite

_JOBS = {
  "": (context.Context, context.run),
  "attribute": (context_attribute.Attribute, context_attribute.run),
  "cite": (context_cite.Cite, context_cite.run),
}


def kind_of(
  word: str, given: Mapping[str, Any], where: str
) -> type[settings.Settings]:
  """The class of settings of a word: "", "attribute" or "cite"."""
  del given, where  # They have one class each.
  return _JOBS[word][0]


def run(word: str, config: Any, workdir: pathlib.Path, before: float) -> None:
  """Runs a word.

  Args:
    word: "", "attribute" or "cite".
    config: of its class.
    workdir: none has one; what they write is `config.output`.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what a job refuses.
  """
  del workdir
  _JOBS[word][1](config, before=before)
