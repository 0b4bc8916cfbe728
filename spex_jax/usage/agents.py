"""Of `spex find`, `spex maia`, `spex checkup` and `spex serve`."""

import dataclasses

from spex_jax import settings
from spex_jax.usage import words


@dataclasses.dataclass(frozen=True)
class Find(settings.Settings):
  """Flags of `spex find run`."""

  config: str = words.config("find_run")
  workdir: str | None = words.workdir(
    "leaderboard.json, details.json (intervals, costs), functions.jsonl "
    "and all answers go (default: runs/find_run); a second run goes on where "
    "the first was stopped"
  )


FIND = f"""\
usage: spex find run
         {words.WORDS} [--workdir=DIR]
       spex find report DIR [DIR ...]
       spex find serve [--category=NAME] [--number=N] [--port=PORT]

makes functions of five kinds, after FIND; lets interpreters describe them from
queries; and scores their code against the truth, which they do not see. The
ceiling (the truth's own code) and the loophole (interpolation) come along

{settings.flags_of(Find)}
{words.DEBUG}

examples:
  spex find run
  spex find run --config.categories=numeric,strings --config.count=10
  spex find report runs/find_run
"""
FINDS = {"run": (Find, FIND)}


@dataclasses.dataclass(frozen=True)
class Maia(settings.Settings):
  """Flags of `spex maia`."""

  config: str = words.config("maia")
  workdir: str | None = words.workdir(
    "units.jsonl, exemplars.jsonl, summary.json, a page of every unit "
    "and all answers go (default: runs/maia); a second run goes on where the "
    "first was stopped"
  )


MAIA = f"""\
usage: spex maia
         {words.WORDS} [--workdir=DIR]

has an agent find out, by experiments on a drawn world, what makes units of
vision models fire: units of known truth (one concept, OR, AND, AND-NOT), or
those of a network. What exemplars alone tell comes along

{settings.flags_of(Maia)}
{words.DEBUG}

examples:
  spex maia
  spex maia --config.noise=0.1 --config.distractors=1 --config.count=10
  spex maia --config.agent=model --config.endpoint=URL --config.model=NAME
  spex maia --config.network=google/vit-base-patch16-224 --config.numbers=5,7
"""


@dataclasses.dataclass(frozen=True)
class FindServe(settings.Settings):
  """Flags of `spex find serve`."""

  category: str = settings.field("numeric", "of the function")
  seed: int = settings.seed("of the function")
  number: int = settings.field(0, "of the function", low=0)
  budget: int | None = settings.field(None, "queries", low=1)
  port: int | None = settings.field(
    None, "of HTTP on this machine; a pipe without one", low=0, high=65535
  )


@dataclasses.dataclass(frozen=True)
class Checkup(settings.Settings):
  """Flags of `spex checkup WORD`."""

  config: str | None = settings.field(
    None, f"{words.FILE} (default: checkup_WORD)"
  )
  workdir: str | None = words.workdir(
    "probes.json, or records.jsonl, pictures, summary.json and an "
    "embedder go (default: runs/checkup_WORD); a second run goes on"
  )


CHECKUP = f"""\
usage: spex checkup draw|recognise|improve|explain|learn
         {words.WORDS} [--workdir=DIR]

what does a model of texts know of pictures? It writes code for captions of a
drawn world (draw), tells what code draws (recognise), and betters its drawings
by feedback in words (improve); explain tells which statements make a picture
of something; learn trains vision models on drawings, and asks them for
handwritten digits, beside dead leaves, no training and labels

{settings.flags_of(Checkup)}
{words.DEBUG}

examples:
  spex checkup learn --workdir=runs/learn
  spex checkup improve --config.defects=syntax,colour
  spex checkup draw --config.endpoint=https://HOST/v1 --config.model=NAME
"""
CHECKUPS = dict.fromkeys(
  ("draw", "recognise", "improve", "explain", "learn"), (Checkup, CHECKUP)
)


@dataclasses.dataclass(frozen=True)
class Serve(settings.Settings):
  """Flags of `spex serve`."""

  model: str | None = settings.field(
    None, "a language model: a directory or a hub name; needed"
  )
  port: int = settings.field(8000, "0 takes a free one", low=0, high=65535)


SERVE = f"""\
usage: spex serve --model=DIR_OR_NAME [--port=PORT]

/v1/chat/completions and /v1/completions of a causal model, on this machine
alone; the latter with log-probabilities of the prompt (echo, logprobs)

{settings.flags_of(Serve)}
{words.DEBUG}
"""
PLAIN = {
  "serve": (Serve, SERVE, "serve.run"),
  "find report": (settings.Settings, FIND, "find.report"),
  "find serve": (FindServe, FIND, "serve.function"),
}
