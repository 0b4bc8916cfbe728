"""`spex context attribute`: which tokens made each token of a generation.

The same as Inseq's `attribute`; for its `attribute-dataset` see
`context_dataset`.
"""

import dataclasses
from typing import Any

from spex_jax import settings
from spex_jax.context import (
  attributing,
  generations,
  methods,
  steps,
  token_scores,
)
from spex_jax.jobs import (
  circuits,
  context_again,
  context_asked,
  networks,
  subjects,
)
from spex_jax.models import sites
from spex_jax.report import clock as clock_lib

_FLAGS = ("model", "prompt", "response", "ids", "output")
_FIELDS = ("prompt_ids", "response_ids")


@dataclasses.dataclass(frozen=True)
class Scoring(context_asked.OfModel):
  """How tokens are scored."""

  method: str = settings.field(
    "saliency", "of scores", choices=tuple(methods.METHODS)
  )
  target: str = settings.field(
    "probability", "of each step, what is attributed", choices=steps.NAMES
  )
  step_scores: tuple[str, ...] = settings.field(
    (), "of each step, printed beside", choices=steps.NAMES
  )
  contrast: str | None = settings.field(
    None, "another response to the prompt, for functions that contrast two"
  )
  forced: bool = settings.field(
    False, "the contrasted token is read from the contrasted run"
  )
  prefix: bool | None = settings.field(
    None,
    "also scores what stands behind the source; None: of a causal model alone",
  )
  top_k: int = settings.field(0, "of kl_divergence, tokens; 0: all", low=0)
  top_p: float = settings.field(
    1.0, "of kl_divergence and top_p_size, a share", low=0, high=1
  )
  layer: str | None = settings.field(
    None, "site of layer methods; None: the embeddings"
  )
  masks: int = settings.field(1000, "of a method that draws some", low=8)


@dataclasses.dataclass(frozen=True)
class Attribute(Scoring):
  """What is attributed, and how it is written."""

  prompt: str = settings.field("", "a text, or what an encoder reads")
  ids: str = settings.field(
    "", "a .json file of prompt_ids and response_ids, not texts"
  )
  steps: tuple[int, ...] = settings.field(
    (), "numbers of the response's tokens; all where none is named", low=0
  )
  join: str = settings.field(
    "none", "of tokens to words", choices=("none", *token_scores.JOINS)
  )
  normalise: bool = settings.field(
    False, "the sizes of a step's scores sum to 1"
  )
  format: str = settings.field(
    "own",
    "of the output; inseq is read by FeatureAttributionOutput.load",
    choices=("own", "inseq"),
  )
  output: str = settings.field("attribution.json", "a file, JSON")


def run(
  config: Attribute, show: context_asked.Show | None = None, before: float = 0.0
) -> token_scores.Attribution:
  """Attributes, prints, and writes `config.output`.

  Beside `Attribution.to_dict` a file of our own has `again`, a command and code
  that give the same.

  Args:
    config: the settings of the command.
    show: takes a line or a rich renderable; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    FileNotFoundError: no file of ids.
    ValueError: what is wrong with model, texts, ids or settings.
  """
  said = clock_lib.Session(show, before)
  if bool(config.prompt) == bool(config.ids):
    raise ValueError("Give --prompt, a text, or --ids, a file of token ids.")
  if config.ids and config.response is not None:
    raise ValueError("--ids stands in place of texts: leave out --response.")
  output = circuits.writable(config.output)
  with said.of("load"):
    net = context_asked.load(config)
  said.tell("model", networks.described(net, config.model))
  with said.of("answer"):
    made = _made(config, net)
  if not config.ids and made.prefix is None:
    count = len(made.response)
    size = len(made.source) + count
    context_asked.note_cut(config, net, size, count, said)
  with said.of("attribute"):
    plain = attributed(config, net, made, config.steps or None)
  found, shown = plain, _spelled(net, plain)
  if config.join != "none":
    # Words are those of the vocabulary's spelling in both.
    words = [token_scores.words_of(x) for x in (plain.source, plain.response)]
    found, shown = (x.joined(*words, how=config.join) for x in (found, shown))
  if config.normalise:
    found, shown = found.normalised(), shown.normalised()
  said.tell("method", f"{config.method} of {config.target}")
  _print(shown, said)
  shell = context_again.shell(config, ("spex", "context", "attribute"), _FLAGS)
  python = context_again.of_attribution(
    config,
    made,
    _arguments(config, config.steps or None),
    _contrast(config, net, made),
  )
  found.save(output, config.format, again={"shell": shell, "python": python})
  said.tell("again", shell)
  said.end(output)
  return found


def attributed(
  config: Scoring,
  net: sites.Network,
  made: generations.Generation,
  steps_of: Any = None,
) -> token_scores.Attribution:
  """A generation attributed by settings.

  Raises:
    ValueError: as `attributing.attribute` and `Generation.of_text`.
  """
  return attributing.attribute(
    net,
    made,
    contrast=_contrast(config, net, made),
    key=subjects.key_of(config.seed, "attribute"),
    **_arguments(config, steps_of),
  )


def _contrast(config, net, made) -> generations.Generation | None:
  if config.contrast is None:
    return None
  tokenizer = context_asked.tokenizer_of(config, net)
  ids = tokenizer.encode(config.contrast, add_special=False).ids
  return generations.Generation.of_ids(net, made.source, ids, made.prefix)


def _arguments(config, steps_of) -> dict[str, Any]:
  """What `attribute` takes besides net, generations and key."""
  return {
    "method": config.method,
    "target": config.target,
    "step_scores": config.step_scores,
    "steps_of": steps_of,
    "prefix": config.prefix,
    "forced": config.forced,
    "top_k": config.top_k,
    "top_p": config.top_p,
    "layer": config.layer,
    "budget": config.masks,
  }


def _made(config: Attribute, net: sites.Network) -> generations.Generation:
  if not config.ids:
    context_asked.tokenizer_of(config, net)
    return generations.Generation.of_text(
      net,
      config.prompt,
      config.response,
      max_new_tokens=config.max_new_tokens,
      bos=config.bos,
    )
  given = context_asked.ids_of(config.ids)
  if {*given} != {*_FIELDS}:
    raise ValueError(
      f"ids={config.ids!r} must hold an object of {' and '.join(_FIELDS)}."
    )
  return generations.Generation.of_ids(net, *(given[x] for x in _FIELDS))


def _spelled(
  net: sites.Network, found: token_scores.Attribution
) -> token_scores.Attribution:
  """The same with the texts of its tokens, where a tokenizer knows them."""
  if net.tokenizer is None:
    return found
  behind = net.tokenizer.pieces(found.behind_ids)
  return dataclasses.replace(
    found,
    source=net.tokenizer.pieces(found.source_ids),
    behind=behind,
    response=behind[len(behind) - len(found.response) :],
  )


def _print(found: token_scores.Attribution, said: clock_lib.Session) -> None:
  """Each step's token, and the tokens before it in colour."""
  source, behind = found.source, found.behind
  ahead = len(behind) - len(found.response)
  for row, step in enumerate(found.steps):
    beside = "".join(
      f", {name} {x[row]:.4g}" for name, x in found.step_scores.items()
    )
    said.tell("step", f"{found.response[step].strip()!r}{beside}")
    pieces, scores = source, found.scores[row].tolist()
    if found.prefix_scores is not None:
      pieces = source + behind[: ahead + step]
      scores = scores + found.prefix_scores[row, : ahead + step].tolist()
    said.show(context_asked.coloured(pieces, scores, "blue"))
