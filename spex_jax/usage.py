"""What the words of `spex` are given, and what they print when asked for help.

Flags and settings, with their help, are fields of classes.
"""

import dataclasses

from spex_jax import settings

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
  sweep     runs thousands of such questions, on one machine or many, so that
            no kill loses or repeats what was done

A FILE given to --config is Python, and is run: take none from a stranger.

`spex explain` alone trains a small network on handwritten digits and explains
one image; `spex attribute data` alone retrains one thousands of times; `spex
attribute components` alone takes one apart. With `--help` each lists its
configurations and settings, and `spex --version` prints the version.
"""

_FILE = (
  "one of the names below, or a Python file with a function "
  "get_config(size) that returns an ml_collections.ConfigDict; :quick after "
  "it asks for a small run; --config.KEY=VALUE changes one setting"
)
_DEBUG = "  --debug                       shows the traceback of an error"


@dataclasses.dataclass(frozen=True)
class Explain(settings.Settings):
  """Flags of `spex explain`."""

  config: str = settings.field("digits", f"{_FILE} (default: digits)")
  workdir: str | None = settings.field(
    None,
    "where explanation.json, fourier.json, figure.png and a trained network "
    "go (default: runs/NAME)",
    place=True,
  )


@dataclasses.dataclass(frozen=True)
class Data(settings.Settings):
  """Flags of `spex attribute data`."""

  config: str = settings.field("data_digits", f"{_FILE} (default: data_digits)")
  workdir: str | None = settings.field(
    None,
    "where attribution.json, explanation.json, figure.png and the bank of "
    "outputs go (default: runs/NAME); a second run reads what the bank holds, "
    "and trains what is missing",
    place=True,
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
    f"{_FILE} (default: components_digits, a small network that is trained "
    "here)",
  )
  workdir: str | None = settings.field(
    None,
    "where explanation.json, fourier.json (or attribution.json) and figure.png "
    "go (default: runs/NAME)",
    place=True,
  )


_WORDS = "[--config=NAME_OR_FILE[:SIZE]] [--config.KEY=VALUE ...]"
EXPLAIN = f"""\
usage: spex explain {_WORDS}
                    [--workdir=DIR] [--debug]

{settings.flags_of(Explain)}
{_DEBUG}

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
         {_WORDS} [--workdir=DIR]

{settings.flags_of(Data)}
{_DEBUG}

examples:
  spex attribute data
  spex attribute data --config.classes= --config.num_train=500
  spex attribute data --config=data_cancer
  spex attribute data --config=data_file --config.data=mine.npz
"""

COMPONENTS = f"""\
usage: spex attribute components
         [--model=DIR_OR_NAME --prompt=TEXT|--image=FILE] [--target=TARGET]
         {_WORDS} [--workdir=DIR]

{settings.flags_of(Components)}
{_DEBUG}

examples:
  spex attribute components
  spex attribute components --model=gpt2 --prompt="The cat sat on the"
  spex attribute components --model=google/vit-base-patch16-224 --image=cat.jpg
  spex attribute components --config.players=neurons --config.method=coar
"""
