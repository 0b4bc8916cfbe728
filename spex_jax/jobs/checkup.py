"""`spex checkup draw|recognise|improve|explain`: what code of a model draws."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import settings
from spex_jax.agents import llm, running
from spex_jax.agents.checkup import (
  author,
  drawing_metrics,
  embedder,
  externals,
  renderers,
  statements,
  three_tests,
)
from spex_jax.agents.world import outside, prompts, rendering, scenes
from spex_jax.jobs import endpoints
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables
from spex_jax.store import folders

RECORDS, SUMMARY, EMBEDDER = "records.jsonl", "summary.json", "embedder.msgpack"
_PATH = "embedder_file"


@dataclasses.dataclass(frozen=True)
class Checkup(endpoints.Asking):
  """What `draw`, `recognise`, `improve` and `explain` share."""

  seed: int = settings.seed("of captions, options and the embedder")
  languages: tuple[str, ...] = settings.field(
    ("matplotlib", "svg"), "of the code; tikz, processing where installed",
    filled=True,
  )  # fmt: skip
  levels: tuple[str, ...] = settings.field(
    tuple(scenes.LEVELS), "of the captions", choices=tuple(scenes.LEVELS),
    filled=True,
  )  # fmt: skip
  count: int = settings.field(12, "captions of each level", low=1)
  size: int = settings.field(64, "pixels a side", low=32, high=256)
  seconds: float = settings.field(5.0, "a program may take", above=0)
  embedder_file: str | None = settings.field(
    None, "an embedder.msgpack of another run; without one it is trained first",
    place=True,
  )  # fmt: skip
  scenes: int = settings.field(6144, "that the embedder learns from", low=16)
  epochs: int = settings.field(12, "of that", low=1)
  width: int = settings.field(16, "filters of its first stage", low=1)
  model: str = settings.field(
    "", "that writes, at the endpoint; without one, the programmatic author"
  )
  reply_tokens: int = settings.field(2048, "of a reply, at most", low=1)

  def check(self) -> None:
    """Languages are known ones; a model has a place.

    Raises:
      settings.SettingError: an unknown language, or a model without an
        endpoint.
    """
    known = renderers.languages()
    for word in self.languages:
      if word not in known:
        said = f" has {word!r}: choose from {', '.join(known)}."
        if needs := externals.NEEDS.get(word):
          said += f" It needs {needs}."
        raise settings.SettingError("languages", said)
    if bool(self.model) != bool(self.endpoint):
      raise settings.SettingError("model", " and endpoint go together.")
    super().check()


@dataclasses.dataclass(frozen=True)
class Draw(Checkup):
  """`spex checkup draw`."""


@dataclasses.dataclass(frozen=True)
class Recognise(Checkup):
  """`spex checkup recognise`."""

  options: int = settings.field(5, "captions to choose from", low=2)


@dataclasses.dataclass(frozen=True)
class Improve(Checkup):
  """`spex checkup improve`."""

  rounds: int = settings.field(4, "of feedback", low=1)
  feedback: bool = settings.field(
    True, "tell what became of the code; else only ask again"
  )
  defects: tuple[str, ...] = settings.field(
    ("syntax", "missing", "colour", "place"),
    "of the programmatic author's first program", choices=author.DEFECTS,
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Explain(Checkup):
  """`spex checkup explain`."""

  caption: str = settings.field(
    "a large red bicycle in the centre on a plain background",
    "to draw, in the world's language",
  )
  code: str = settings.field("", "a file of code instead of the author's")
  budget: int = settings.field(512, "distinct sets of statements", low=1)


def run(
  config: Checkup, workdir: pathlib.Path, before: float = 0.0
) -> dict[str, Any]:
  """Runs a word; writes records, pictures and a summary, and prints it.

  Raises:
    ValueError: the workdir is another configuration's, or a caption that the
      world's language does not have.
    FileNotFoundError: no such embedder, or file of code.
  """
  word = type(config).__name__.lower()
  said = clock_lib.Session(before=before)
  folder = folders.opened(workdir)
  own: dict[str, Any] = dataclasses.asdict(config)
  for name in ("count", "key_variable", _PATH):
    del own[name]
  running.check_same(folder, own | {"word": word})
  with renderers.Studio(config.size, config.seconds) as studio:
    if isinstance(config, Recognise):
      with said.of("ask"):
        records = _recognised(config, folder)
      found: dict[str, Any] = {"accuracy": drawing_metrics.accuracy(records)}
    else:
      with said.of("embedder"):
        seer = _embedder(config, folder)
      with said.of(word):
        if isinstance(config, Explain):
          found, records = _explained(config, studio, seer, said), []
        else:
          records = _drawn(config, folder, studio)
          found = _measured(config, records, seer)
  running.write_lines(folder, RECORDS, [own.as_json() for own in records])
  for record in records:
    if record.picture is not None:
      folder.replace(
        f"pictures/{record.sha256}.png", outside.encoded(record.picture)
      )
  running.write(folder, SUMMARY, found)
  if not isinstance(config, Explain):
    _tell(word, found, records, said)
  said.end(workdir / SUMMARY)
  return found


def _chat(config: Checkup, folder: folders.Folder, language: str) -> llm.Chat:
  """Who answers, with a budget of its own."""
  if not config.model:
    return author.Author(language, getattr(config, "defects", ()))
  inner = llm.Endpoint(
    endpoints.service(config),
    config.model,
    folder=folder,
    max_tokens=config.reply_tokens,
  )
  limits = endpoints.limits(config, getattr(config, "rounds", 0) + 1)
  return llm.Meter(inner, limits)


def _asked(config: Checkup) -> list[tuple[str, str, str]]:
  """Language, level and caption of each conversation."""
  return [
    (language, level, caption)
    for language in config.languages
    for level in config.levels
    for caption in three_tests.captions(config.seed, level, config.count)
  ]


def _drawn(config, folder, studio) -> list[three_tests.Record]:
  return [
    record
    for language, level, caption in _asked(config)
    for record in three_tests.improve(
      _chat(config, folder, language), caption, language, studio,
      getattr(config, "rounds", 0), level=level,
      feedback=getattr(config, "feedback", True),
    )
  ]  # fmt: skip


def _recognised(config: Recognise, folder) -> list[three_tests.Record]:
  found = []
  rng = np.random.default_rng([config.seed, 1])
  for language, level, caption in _asked(config):
    pool = three_tests.captions(config.seed, level, 4 * config.options)
    others = [text for text in pool if text != caption]
    options = list(rng.permutation(others)[: config.options - 1])
    options = [str(x) for x in rng.permutation([*options, caption])]
    code = author.Author(language).code(caption)
    chat = _chat(config, folder, language)
    found.append(
      three_tests.recognise(chat, caption, language, code, options, level)
    )
  return found


def _measured(config, records, seer) -> dict[str, Any]:
  """Metrics of each language and round."""
  pool = [
    caption
    for level in config.levels
    for caption in three_tests.captions(config.seed + 1, level, 32)
  ]
  captions = {record.caption for record in records}
  true = np.stack([
    rendering.render(prompts.read(own), config.size) for own in captions
  ])  # fmt: skip
  found: dict[str, Any] = {}
  for language in config.languages:
    own = [r for r in records if r.language == language]
    for number in sorted({r.round for r in own}):
      part = [r for r in own if r.round == number]
      name = f"{language}, round {number}" if number or len(own) > len(
        part) else language  # fmt: skip
      found[name] = drawing_metrics.summary(
        part, seer, [*captions, *pool], true
      )
  return found


def _embedder(config: Checkup, folder: folders.Folder) -> embedder.Embedder:
  """The one of another run, of this one, or trained now.

  Raises:
    FileNotFoundError: no such file.
    ValueError: it is another model's.
  """
  from flax import serialization

  recipe = embedder.Recipe(
    config.scenes, config.epochs, min(128, config.scenes), config.width
  )
  path = pathlib.Path(config.embedder_file or f"{folder.path}/{EMBEDDER}")
  if config.embedder_file and not path.is_file():
    raise FileNotFoundError(f"embedder_file: {path}: no such file.")
  if path.is_file():
    try:
      held: Any = serialization.msgpack_restore(path.read_bytes())
      own = embedder.of_params(held, recipe)
      own.texts(["nothing"])
      return own
    except Exception as error:  # Whatever damaged bytes lead to.
      raise ValueError(
        f"{path} holds no embedder of this version: {error}"[:300]
      ) from error
  key = jax.random.fold_in(jax.random.key(config.seed), 22)
  params = embedder.train(key, config.seed, recipe)
  folder.replace(EMBEDDER, serialization.msgpack_serialize(params))
  return embedder.of_params(params, recipe)


def _explained(config: Explain, studio, seer, said) -> dict[str, Any]:
  """The sets of strokes that matter, per language; printed."""
  scene = prompts.read(config.caption)
  if not scene.things:
    raise ValueError("caption: it must name a thing.")
  first, *rest = scene.things
  rivals = [
    prompts.write(
      scenes.Scene((dataclasses.replace(first, shape=shape), *rest),
                   scene.background)
    )
    for shape in scenes.ATTRIBUTES["shape"]
    if shape != first.shape
  ]  # fmt: skip
  found: dict[str, Any] = {}
  for language in config.languages:
    code = author.Author(language).code(config.caption)
    if config.code:
      code = pathlib.Path(config.code).read_text()
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    explained = statements.explain(
      key, language, code, config.caption, rivals, studio, seer, config.budget
    )
    own = explained.interactions("FBII", order=2)
    names, _ = statements.split(language, code)
    all_in = np.ones((1, len(names)), bool)
    full, none = (float(explained.fourier(m)[0]) for m in (all_in, ~all_in))
    said.tell(
      language,
      f"log odds of {first.shape!r}: {full:+.2f} nat with all {len(names)} "
      f"statements, {none:+.2f} with none",
    )
    rows = []
    for number, name in enumerate(names):
      said.tell(f"  {number}", name)
    for players, value in own.top(12):
      rows.append(
        {"statements": list(map(int, players)), "value": float(value)}
      )
      said.tell(str(rows[-1]["statements"]), f"{value:+.2f} nat")
    found[language] = {
      "caption": config.caption, "statements": names, "interactions": rows,
      "faithfulness": float(explained.faithfulness),
    }  # fmt: skip
  return found


def _tell(
  word: str, found: Mapping[str, Any], records: Sequence[three_tests.Record],
  said: clock_lib.Session,
) -> None:  # fmt: skip
  """Prints what was found."""
  names = [
    "compiled",
    "drawn",
    "fidelity",
    "diversity",
    drawing_metrics.FRECHET,
  ]
  if word == "recognise":
    names = ["accuracy"]
    found = {name: {"accuracy": v} for name, v in found["accuracy"].items()}
  rows = [
    [label, *("" if row[n] is None else f"{row[n]:.2f}" for n in names)]
    for label, row in found.items()
  ]
  title = f"checkup {word}"
  said.show(report_tables.grid(["", *names], rows, [""], title))
  for record in [r for r in records if r.error][:5]:
    said.tell(record.status, f"{record.caption}: {record.error}")
