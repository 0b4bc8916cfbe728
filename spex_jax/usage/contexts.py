"""Of `spex context` and its words."""

import dataclasses

from spex_jax import settings
from spex_jax.usage import words

_OF_ANSWERS = settings.field(
  None, "a language model: a directory or a hub name; needed"
)
_RESPONSE = settings.field(
  None,
  "an answer, the model's own or another's; made where not given. Usually with "
  "its leading space",
)


@dataclasses.dataclass(frozen=True)
class Context(settings.Settings):
  """Flags of `spex context`."""

  model: str | None = _OF_ANSWERS
  context: str | None = settings.field(None, "a text, or a file of one")
  query: str | None = settings.field(
    None, "the question, or the text to translate"
  )
  response: str | None = _RESPONSE
  ids: str | None = settings.field(
    None,
    "token ids in place of texts, .json: with_context, without_context, "
    "response_ids, context_span; of an encoder-decoder encoder_with, "
    "encoder_without, decoder, context_span",
  )
  output: str | None = settings.field(
    None, "what is found, JSON (default: context.json)"
  )
  config: str | None = words.NAMED


@dataclasses.dataclass(frozen=True)
class ContextCite(settings.Settings):
  """Flags of `spex context cite`."""

  model: str | None = _OF_ANSWERS
  sources: str | None = settings.field(
    None, 'a .jsonl file with a "text" a line; needed'
  )
  query: str | None = settings.field(None, "what stands behind the sources")
  response: str | None = _RESPONSE
  output: str | None = settings.field(
    None, "values, sets and citations, JSON (default: citations.json)"
  )
  config: str | None = words.NAMED


@dataclasses.dataclass(frozen=True)
class ContextAttribute(settings.Settings):
  """Flags of `spex context attribute`."""

  model: str | None = _OF_ANSWERS
  prompt: str | None = settings.field(None, "a text, or what an encoder reads")
  response: str | None = _RESPONSE
  ids: str | None = settings.field(
    None, "token ids in place of texts, .json: prompt_ids, response_ids"
  )
  output: str | None = settings.field(
    None, "scores of every step, JSON (default: attribution.json)"
  )
  config: str | None = words.NAMED


_CONTEXT = f"""\
usage: spex context
         --model=DIR_OR_NAME --context=TEXT_OR_FILE --query=TEXT
         [--response=TEXT] [--output=FILE.json]
         {words.WORDS}
       spex context attribute|cite   (see `spex context cite --help`)

tells which tokens of an answer depend on its context (CTI), on which tokens of
the context (CCI), and on which of its sentences. Arguments of
`inseq attribute-context` are taken by their names where they mean the same.

{settings.flags_of(Context)}
{words.DEBUG}

examples:
  spex context --model=DIR --context=page.txt --query="Who was it?"
  spex context --model=DIR --ids=run.json --config.targets=all
  spex context --model=DIR --context=... --query=... --config.format=inseq
"""
_CITE = f"""\
usage: spex context cite
         --model=DIR_OR_NAME --sources=FILE.jsonl --query=TEXT
         [--response=TEXT] [--output=FILE.json]
         {words.WORDS}

tells which sources an answer stands on, alone or together

{settings.flags_of(ContextCite)}
{words.DEBUG}

examples:
  spex context cite --model=DIR --sources=docs.jsonl --query="Who?" \\
      --response=" Mary" --config.budget=64
  spex context cite --model=DIR --sources=docs.jsonl --query="Who?" \\
      --config.method=contextcite --config.prune=2
  spex context cite --model=DIR_OF_TOKENIZER --sources=docs.jsonl \\
      --query="Who?" --response=" Mary" --config.endpoint=https://HOST/v1
"""
_ATTRIBUTE = f"""\
usage: spex context attribute
         --model=DIR_OR_NAME --prompt=TEXT [--response=TEXT]
         [--output=FILE.json]
         {words.WORDS}

tells which tokens made each token of a generation, by Inseq's methods and step
functions. Arguments of `inseq attribute` are taken by their names where they
mean the same.

{settings.flags_of(ContextAttribute)}
{words.DEBUG}

examples:
  spex context attribute --model=DIR --prompt="The cat sat on"
  spex context attribute --model=DIR --prompt="The cat sat on" \\
      --response=" the mat" --config.method=integrated_gradients \\
      --config.step_scores=probability,entropy --config.format=inseq
"""
CONTEXTS = {
  "": (Context, _CONTEXT),
  "attribute": (ContextAttribute, _ATTRIBUTE),
  "cite": (ContextCite, _CITE),
}
