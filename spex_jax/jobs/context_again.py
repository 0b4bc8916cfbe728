"""Commands and code that give again what `spex context` and `cite` gave."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import settings
from spex_jax.context import generations
from spex_jax.context import response_runs as runs_lib
from spex_jax.context import sources as sources_lib
from spex_jax.jobs import context_asked

_IMPORTS = (
  "from spex_jax import context\n"
  "from spex_jax.jobs import subjects\n"
  "from spex_jax.models import hub\n"
)


def shell(
  config: settings.Settings, words: Sequence[str], flags: Sequence[str]
) -> str:
  """A command with the settings that differ from their defaults.

  Args:
    config: the settings of the command.
    words: the command, such as "spex", "context".
    flags: settings that are flags by themselves, without "config.".
  """
  defaults = settings.as_dict(type(config)())
  said = list(words)
  for name, value in settings.as_dict(config).items():
    if value != defaults[name]:
      many = isinstance(value, tuple)
      given = ",".join(map(str, value)) if many else str(value)
      said.append(f"--{'' if name in flags else 'config.'}{name}={given}")
  return shlex.join(said)


def of_context(
  config: context_asked.OfModel,
  runs: runs_lib.Runs,
  asked: Mapping[str, Any],
  sources: sources_lib.Sources | None = None,
  citing: Mapping[str, Any] | None = None,
) -> str:
  """Code that leaves in `found` what `context.pecore` gave.

  And in `cited` what `context.cite` gave, where there are sources.

  Args:
    config: the settings of the model.
    runs: the response, as it was made.
    asked: arguments of `pecore`, by name.
    sources: the sources that are cited; None where there are none.
    citing: arguments of `cite`, by name; None for no citations.
  """
  made = {
    name: None if ids is None else ids.tolist()
    for name, ids in (
      ("with_context", runs.with_context),
      ("without_context", runs.without_context),
      ("response", runs.response),
      ("decoder_with", runs.decoder_with),
      ("decoder_without", runs.decoder_without),
    )
  }
  made |= {"context": runs.context, "output_context": runs.output_context}
  imports, more = _IMPORTS, ""
  if sources is not None:
    imports = f"import numpy as np\n\n{_IMPORTS}"
    owner = sources.prompt.players.owner
    gone = np.flatnonzero(owner < sources.n)
    made_of = f"{sources.prompt.text!r}, {list(sources.documents)!r}"
    more = (
      f"stays = np.ones({len(owner)}, bool)\n"
      f"stays[{gone[0]}:{gone[-1] + 1}] = False\n"
      f"sources = context.sources.of_spans(\n  {made_of}, net.tokenizer,\n"
      f"  level={sources.level!r}, bos={config.bos!r}).also_without(stays)\n"
      f"cited = context.cite(\n  net, sources, {runs.response.tolist()!r},\n"
      f"  key=subjects.key_of({config.seed}, 'citations'),\n"
      f"{_listed(citing or {})})\n"
    )
  return (
    f"{imports}\n{_net(config)}"
    f"runs = context.Runs.of_ids(\n  net,\n{_listed(made)})\n"
    f"key = subjects.key_of({config.seed}, 'cues')\n"
    f"found = context.pecore(\n  net,\n  runs,\n  key=key,\n{_listed(asked)})\n"
    f"{more}"
  )


def of_attribution(
  config: Any,
  made: generations.Generation,
  asked: Mapping[str, Any],
  contrast: generations.Generation | None = None,
) -> str:
  """Code that leaves in `found` what `context.attribute` gave.

  Args:
    config: the settings of `spex context attribute`.
    made: the generation that is explained.
    asked: arguments of `attribute`, by name.
    contrast: another generation to compare with, or None.
  """
  ids = lambda x: None if x is None else x.tolist()
  of = lambda x: (
    "context.Generation.of_ids(\n"
    f"  net, {ids(x.source)!r}, {ids(x.response)!r}, {ids(x.prefix)!r})\n"
  )
  lines, more = [_net(config), f"made = {of(made)}"], ""
  if contrast is not None:
    lines.append(f"contrast = {of(contrast)}")
    more = "  contrast=contrast,\n"
  key = f"key=subjects.key_of({config.seed}, 'attribute')"
  lines.append(
    f"found = context.attribute(\n  net, made, {key},\n"
    f"{_listed(asked)}{more})\n"
  )
  if config.join != "none":
    words = "\n  context.token_scores.words_of(found.{}),".format
    lines.append(
      f"found = found.joined({words('source')}{words('response')}\n"
      f"  how={config.join!r})\n"
    )
  if config.normalise:
    lines.append("found = found.normalised()\n")
  return f"{_IMPORTS}\n{''.join(lines)}"


def of_citations(
  config: Any,
  texts: Sequence[str],
  prompt: Mapping[str, Any],
  response: Sequence[int],
  asked: Mapping[str, Any],
  threshold: float | None = None,
) -> str:
  """Code that leaves in `found` what `context.cite` gave.

  Args:
    config: the settings of `spex context cite`.
    texts: the text of each source, in order.
    prompt: arguments of `sources.of_texts`, by name.
    response: the token ids of the response.
    asked: arguments of `cite`, by name.
    threshold: one that was calibrated; None for the method's own.
  """
  made = f"context.sources.of_texts(\n  texts, {config.query!r},"
  of = lambda tokenizer, given: f"{made} {tokenizer},\n{_listed(given)})\n"
  imports, lines = _IMPORTS, [f"texts = {list(texts)!r}\n"]
  key = f"key=subjects.key_of({config.seed}, 'citations')"
  # Where the scorer comes from: an endpoint, or a network that is loaded.
  if config.endpoint:
    imports = (
      "import os\n\n"
      "from spex_jax import context\n"
      "from spex_jax.ablate import services\n"
      "from spex_jax.jobs import subjects\n"
      "from spex_jax.models import hub, tokens\n"
    )
    lines += [
      f"tokenizer = tokens.load(hub.local({config.model!r}))\n",
      f"sources = {of('tokenizer', prompt)}",
      f"key = os.environ.get({config.key_variable!r}, '')\n",
      f"service = services.Service({config.endpoint!r}, key)\n",
      "scorer = context.remote.scorer(\n"
      f"  service, {config.endpoint_model or config.model!r}, sources, "
      f"{list(response)!r})\n",
    ]
    first = "scorer"
  else:
    lines += [_net(config), f"sources = {of('net.tokenizer', prompt)}"]
    first = f"net, sources, {list(response)!r}"
  # Further arguments, which need lines of their own before the call.
  more = ""
  if config.coarse is not None:
    tokenizer = "tokenizer" if config.endpoint else "net.tokenizer"
    given = {**prompt, "level": config.coarse}
    lines.append(f"coarse = {of(tokenizer, given)}")
    more += "  coarse=coarse,\n"
  if config.proxy:
    lines += [
      f"small = hub.load({config.proxy!r}, {config.dtype!r})\n",
      f"beside = {of('small.tokenizer', prompt)}",
      "proxy = context.scoring.scorer(small, beside, "
      f"{config.response!r}, budget={config.budget})\n",
    ]
    more += "  proxy=proxy,\n"
  lines.append(
    f"found = context.cite(\n  {first},\n  {key},\n{_listed(asked)}{more})\n"
  )
  if threshold is not None:
    lines.append(f"found.threshold = {threshold!r}\n")
  if config.prune is not None:
    given = context_asked.pruning(config.prune)
    said = ", ".join(f"{name}={value!r}" for name, value in given.items())
    lines.append(f"text, kept = context.prune(found, {said})\n")
  return f"{imports}\n{''.join(lines)}"


def _net(config) -> str:
  return (
    f"net = hub.load({config.model!r}, {config.dtype!r}, "
    f"ignore={config.ignore!r})\n"
  )


def _listed(given: Mapping[str, Any]) -> str:
  return "".join(f"  {name}={value!r},\n" for name, value in given.items())
