"""The words of `spex context`: settings and what runs them."""

import pathlib
from collections.abc import Mapping
from typing import Any

from spex_jax import settings
from spex_jax.jobs import context, context_cite


def kind_of(
  word: str, given: Mapping[str, Any], where: str
) -> type[settings.Settings]:
  """The class of settings of a word: "" or "cite"."""
  del given, where  # They have one class each.
  return context_cite.Cite if word == "cite" else context.Context


def run(word: str, config: Any, workdir: pathlib.Path, before: float) -> None:
  """Runs a word.

  Args:
    word: "" or "cite".
    config: of its class.
    workdir: neither has one; what they write is `config.output`.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what a job refuses.
  """
  del workdir
  job = context_cite.run if word == "cite" else context.run
  job(config, before=before)
