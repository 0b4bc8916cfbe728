"""What the words of `spex` are given, and what they print when asked for help.

Flags and settings, with their help, are fields of classes.
"""

import dataclasses
from collections.abc import Sequence

from spex_jax import settings
from spex_jax.usage import agents, contexts, words

SPEX = """\
usage: spex COMMAND [--config=NAME_OR_FILE[:SIZE]] [--config.KEY=VALUE ...]
                    [--workdir=DIR]

Which sets of things matter together in a model's decision?

commands:
  explain   masks subsets of a model's input, and recovers from its outputs
            which sets of features interact
  attribute data
            retrains on subsets of the training examples, and tells which of
            them help or harm a prediction, alone and together
  attribute components
            removes heads, neurons or filters of a network, and tells which of
            them its predictions need, alone and together
  circuit   finds which edges of a language model carry a behaviour, and how
            faithful they are: scores, judges, patches
  context   tells which tokens of an answer used its context, on which parts of
            it, and `context cite` which sources it stands on, alone or together
  find      describes black-box functions from queries, without a language
            model or with one, and prints how well interpreters did
  checkup   what a model of texts knows of pictures, by the code it draws with,
            and what vision models learn from drawings
  maia      tells by experiments what makes units of vision models fire, and
            how much of it is true
  sweep     runs thousands of such questions, on one machine or many, so that
            no kill loses or repeats what was done
  serve     answers as OpenAI's endpoints do, by a model on this machine
  report    makes one HTML page of what any of these wrote
  cache     tells where compiled programs are kept, and how much, or clears it

A FILE given to --config is Python, and is run: take none from a stranger.

`spex explain` alone trains a small network on handwritten digits and explains
one image; `spex attribute data` alone retrains one thousands of times; `spex
attribute components` alone takes one apart; `spex circuit find` alone trains a
network that does induction, and finds its circuit. With `--help` each lists its
configurations and settings, and `spex --version` prints the version.
"""


@dataclasses.dataclass(frozen=True)
class Explain(settings.Settings):
  """Flags of `spex explain`."""

  config: str = words.config("digits")
  workdir: str | None = words.workdir(
    "explanation.json, fourier.json, figure.png and a trained network "
    "go (default: runs/NAME)"
  )


@dataclasses.dataclass(frozen=True)
class Data(settings.Settings):
  """Flags of `spex attribute data`."""

  config: str = words.config("data_digits")
  workdir: str | None = words.workdir(
    "attribution.json, explanation.json, figure.png and the bank of "
    "outputs go (default: runs/NAME); a second run reads what the bank holds, "
    "and trains what is missing"
  )


@dataclasses.dataclass(frozen=True)
class Components(settings.Settings):
  """Flags of `spex attribute components`."""

  model: str | None = settings.field(
    None,
    "a causal language model, or with --image an image classifier (a directory "
    "or a hub name); short for --config.model and so on, with "
    "--config=components_lm or components_image",
  )
  prompt: str | None = settings.field(None, "what a language model reads")
  image: str | None = settings.field(None, "what an image classifier sees")
  target: str | None = settings.field(None, "what it is to say next, or to see")
  config: str | None = settings.field(
    None,
    f"{words.FILE} (default: components_digits, a small network that is "
    "trained here)",
  )
  workdir: str | None = words.workdir(
    "explanation.json, fourier.json (or attribution.json) and figure.png "
    "go (default: runs/NAME)"
  )


_OF_CIRCUITS = settings.field(
  None,
  "a causal language model (a directory or a hub name); short for "
  "--config.model",
)
_TASK = settings.field(None, "a task's name, or a file of pairs (default: ioi)")
_PAIRS = settings.field(
  None, "of prompts, .jsonl or .csv: clean, corrupted, right, wrong"
)


@dataclasses.dataclass(frozen=True)
class CircuitScore(settings.Settings):
  """Flags of `spex circuit score`."""

  model: str | None = _OF_CIRCUITS
  pairs: str | None = _PAIRS
  output: str | None = settings.field(
    None, "a table: writer, reader, row, score (default: scores.csv)"
  )
  config: str | None = words.NAMED


@dataclasses.dataclass(frozen=True)
class CircuitJudge(settings.Settings):
  """Flags of `spex circuit judge`."""

  model: str | None = _OF_CIRCUITS
  pairs: str | None = _PAIRS
  circuit: tuple[str, ...] | None = settings.field(
    None,
    "files of circuits, more than one with commas or spaces between: "
    '{"edges": [[writer, reader, row], ...]}, or EAP-IG\'s',
  )
  output: str | None = settings.field(
    None, "a table: circuit, pair, metric, faithfulness (default: judged.csv)"
  )
  config: str | None = words.NAMED


@dataclasses.dataclass(frozen=True)
class CircuitFind(settings.Settings):
  """Flags of `spex circuit find`."""

  model: str | None = settings.field(
    None,
    "a causal language model (a directory or a hub name); without one, a small "
    "network is trained",
  )
  task: str | None = settings.field(
    None, "what it does: a task's name, or a file of pairs (default: ioi)"
  )
  config: str | None = words.NAMED
  workdir: str | None = words.workdir(
    "circuit.json, scores.npz, faithfulness.png, circuit.svg and a "
    "trained network go (default: runs/NAME)"
  )


@dataclasses.dataclass(frozen=True)
class CircuitPatch(settings.Settings):
  """Flags of `spex circuit patch`."""

  model: str | None = _OF_CIRCUITS
  task: str | None = _TASK
  sweep: str | None = settings.field(
    None, "what is patched, one by one (default: resid_pre)"
  )
  config: str | None = words.NAMED
  workdir: str | None = words.workdir(
    "a table and a heatmap of each sweep go (default: runs/NAME)"
  )


@dataclasses.dataclass(frozen=True)
class CircuitPaths(settings.Settings):
  """Flags of `spex circuit paths`."""

  model: str | None = _OF_CIRCUITS
  task: str | None = _TASK
  config: str | None = words.NAMED
  workdir: str | None = words.workdir(
    "groups.json, and a table and a heatmap of each step go (default: "
    "runs/NAME)"
  )


@dataclasses.dataclass(frozen=True)
class CircuitDcm(settings.Settings):
  """Flags of `spex circuit dcm`."""

  model: str | None = _OF_CIRCUITS
  triples: str | None = settings.field(
    None, "a .jsonl file: base, source, target, desideratum; needed"
  )
  config: str | None = words.NAMED
  workdir: str | None = words.workdir(
    "dcm.csv and a picture of each mask go (default: runs/NAME)"
  )


@dataclasses.dataclass(frozen=True)
class CircuitCmap(settings.Settings):
  """Flags of `spex circuit cmap`."""

  model: str | None = settings.field(
    None, "the base: a directory or a hub name; short for --config.model"
  )
  tuned: str | None = settings.field(
    None, "the fine-tuned model, or a LoRA adapter of the base; needed"
  )
  task: str | None = _TASK
  config: str | None = words.NAMED
  workdir: str | None = words.workdir(
    "cmap.csv and cmap.png go (default: runs/NAME)"
  )


@dataclasses.dataclass(frozen=True)
class CircuitTasks(settings.Settings):
  """Flags of `spex circuit tasks`."""

  model: str | None = _OF_CIRCUITS
  config: str | None = words.NAMED


@dataclasses.dataclass(frozen=True)
class Report(settings.Settings):
  """Flags of `spex report`."""

  output: str = settings.field(
    "report.html", "the page (default: report.html)", place=True
  )


REPORT = f"""\
usage: spex report DIR [DIR ...] [--output=FILE.html]

One HTML page of what commands wrote into their workdirs: how far to trust it,
a picture to click, tables with intervals, raw data to download. It asks the net
for nothing.

{settings.flags_of(Report)}
{words.DEBUG}

examples:
  spex report runs/digits
  spex report runs/digits runs/circuit_find --output=both.html
"""


@dataclasses.dataclass(frozen=True)
class Cache(settings.Settings):
  """Flags of `spex cache`."""

  clear: bool = settings.field(False, "delete the programs")


CACHE = f"""\
usage: spex cache [--clear]

Where commands keep the programs that they compiled, so that the next run does
not wait for them, and how much that is. JAX_COMPILATION_CACHE_DIR=FOLDER in the
environment is another place, JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.

{settings.flags_of(Cache)}
{words.DEBUG}
"""

EXPLAIN = f"""\
usage: spex explain {words.WORDS}
                    [--workdir=DIR] [--debug]

{settings.flags_of(Explain)}
{words.DEBUG}

examples:
  spex explain
  spex explain --config=sentiment --config.model=DIRECTORY_OR_HUB_NAME
  spex explain --config=lm --config.model=... --config.text="The cat sat on the"
  spex explain --config=image --config.model=... --config.image=cat.jpg
  spex explain --config=tabular --config.table=mine.csv --config.row=3
  spex explain --config.method=integrated_gradients
  spex explain --config=callable --config.function=my_module:value --config.n=20
"""

DATA = f"""\
usage: spex attribute data
         {words.WORDS} [--workdir=DIR]

{settings.flags_of(Data)}
{words.DEBUG}

examples:
  spex attribute data
  spex attribute data --config.classes= --config.num_train=500
  spex attribute data --config=data_cancer
  spex attribute data --config=data_file --config.data=mine.npz
"""

COMPONENTS = f"""\
usage: spex attribute components
         [--model=DIR_OR_NAME --prompt=TEXT|--image=FILE] [--target=TARGET]
         {words.WORDS} [--workdir=DIR]

{settings.flags_of(Components)}
{words.DEBUG}

examples:
  spex attribute components
  spex attribute components --model=openai-community/gpt2 --prompt="The cat"
  spex attribute components --model=google/vit-base-patch16-224 --image=cat.jpg
  spex attribute components --config.players=neurons --config.method=coar
"""

_CIRCUIT = {
  "score": (
    CircuitScore,
    "scores every edge between a head, an MLP and what reads it: the change of "
    "the\nmetric when the edge carries what the corrupted prompt writes, or a "
    "first-order\nestimate of it; negative where that lowers the metric",
    "--model=DIR_OR_NAME --pairs=FILE [--output=FILE.csv]",
    ("--model=DIR --pairs=ioi.jsonl --config.method=eap-ig --config.steps=5",
     "--model=DIR --pairs=ioi.jsonl --config.method=exact"),
  ),
  "judge": (
    CircuitJudge,
    "runs circuits, all edges outside of which carry what the corrupted prompt "
    "writes,\nand tells what they keep of what the model does",
    "--model=DIR_OR_NAME --pairs=FILE --circuit=FILE.json [FILE.json ...]",
    ("--model=DIR --pairs=ioi.jsonl --circuit=a.json b.json",),
  ),
  "find": (
    CircuitFind,
    "scores edges on half of the pairs, and judges circuits of ten sizes on "
    "the other",
    "[--model=DIR_OR_NAME --task=TASK_OR_FILE]",
    ("", "--model=DIR --task=ioi --config.edges=400",
     "--model=DIR --task=mine.jsonl --config.backward=relp"),
  ),
  "patch": (
    CircuitPatch,
    "puts parts of one run into another, one by one, and draws what that does",
    "--model=DIR_OR_NAME [--task=TASK_OR_FILE] [--sweep=NAME]",
    ("--model=DIR --task=ioi --sweep=attn_head_out_all_pos",),
  ),
  "paths": (
    CircuitPaths,
    "tells what heads and MLPs do to the answer through certain inputs of "
    "others; with\nsteps, groups of heads from the answer backwards, and what "
    "they keep of it",
    "--model=DIR_OR_NAME [--task=TASK_OR_FILE]",
    ("--model=DIR --task=ioi",
     "--model=DIR --config.steps='a=logits@end:4,b=a.q@end:4'"),
  ),
  "dcm": (
    CircuitDcm,
    "learns which heads carry a variable, from prompts that say what it does",
    "--model=DIR_OR_NAME --triples=FILE.jsonl",
    ("--model=DIR --triples=mine.jsonl --config.penalties=0.01,0.1",),
  ),
  "cmap": (
    CircuitCmap,
    "puts heads of a fine-tuned model into its base: where the gain sits",
    "--model=DIR_OR_NAME --tuned=DIR_OR_NAME [--task=TASK_OR_FILE]",
    ("--model=DIR --tuned=OTHER --task=retrieval --config.forms=out,q",),
  ),
  "tasks": (
    CircuitTasks,
    "makes pairs of every task, and tells which a model can do",
    "--model=DIR_OR_NAME",
    ("--model=DIR --config.tasks=ioi,greater-than",),
  ),
}  # fmt: skip


def _circuit(word: str) -> str:
  flags, about, given, examples = _CIRCUIT[word]
  shown = [f"  spex circuit {word} {example}".rstrip() for example in examples]
  return f"""\
usage: spex circuit {word}
         {given}
         {words.WORDS}

{about}

{settings.flags_of(flags)}
{words.DEBUG}

examples:
{chr(10).join(shown)}
"""


# Word to its flags and its text.
CIRCUITS = {
  word: (given[0], _circuit(word)) for word, given in _CIRCUIT.items()
}
CIRCUIT = """\
usage: spex circuit score|judge|find|patch|paths|dcm|cmap|tasks [FLAGS]

Which edges of a language model carry a behaviour: pairs of prompts, clean and
corrupted, whose answers differ.

  score     edges one by one, into a table
  judge     circuits of files: what of the behaviour they keep
  find      both: scores, circuits of ten sizes, one of them drawn
  patch     parts of one run put into another, as a heatmap
  paths     what heads do through others: path patching, and groups by it
  dcm       which heads carry a variable, by masks that are learned
  cmap      where the gain of fine-tuning sits, by heads put into the base
  tasks     which of the tasks that come along a model can do

`spex circuit WORD --help` lists flags and settings.
"""

# A word to its flags, its text, and what runs it.
PLAIN = {
  "report": (Report, REPORT, "report.run"),
  "cache": (Cache, CACHE, "compiled.run"),
  **agents.PLAIN,
}
FIND, FINDS = agents.FIND, agents.FINDS
CHECKUP, CHECKUPS = agents.CHECKUP, agents.CHECKUPS
Maia, MAIA = agents.Maia, agents.MAIA
CONTEXTS = contexts.CONTEXTS


def listed(arguments: Sequence[str], flag: str) -> list[str]:
  """All values of a flag as one, words behind it that are no flags included."""
  values, rest, behind = [], [], False
  for word in arguments:
    name, is_set, value = word.partition("=")
    if name == flag:
      values += [value] if is_set else []
      behind = True
    elif behind and not word.startswith("-"):
      values.append(word)
    else:
      rest.append(word)
      behind = False
  return rest + ([f"{flag}={','.join(values)}"] if values else [])


def one_line(error: BaseException) -> str:
  """What an error says, as the command prints it."""
  # What an error quotes must not steer a terminal.
  text = "".join(
    c if c.isprintable() else ascii(c)[1:-1]
    for c in " ".join(str(error).split())
  )
  own = (ValueError, TypeError, RuntimeError)
  # One of ours is a sentence; the system's has a number.
  sentences = (
    OSError, FileNotFoundError, ImportError, InterruptedError, TimeoutError,
    ConnectionError,
  )  # fmt: skip
  if isinstance(error, own) or (
    type(error) in sentences and not getattr(error, "errno", None)
  ):
    return text or type(error).__name__
  return f"{type(error).__name__}: {text}"
