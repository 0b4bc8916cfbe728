"""Named settings of `spex`: one file each, with `get_config(size)`.

Here, what several of them have in common.
"""

import ml_collections
from ml_collections import config_dict


def is_quick(size: str) -> bool:
  """Whether a size is "quick" rather than "full".

  Raises:
    ValueError: it is neither.
  """
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  return size == "quick"


def subject(name: str) -> ml_collections.ConfigDict:
  """The beginning of the settings of a subject of `jobs.explain`."""
  config = ml_collections.ConfigDict()
  config.subject = name
  config.seed = 0  # Of the split, the network, the masks: of everything.
  return config


def ask(
  config: ml_collections.ConfigDict, budget: int, method: str = "auto"
) -> None:
  """How every subject is asked, and what is shown of the answer."""
  config.budget = budget  # Distinct masks, held-out included.
  config.method = method
  # R^2 on held-out masks at which no more are asked; None for all the budget.
  config.target_faithfulness = config_dict.placeholder(float)
  config.kernel_width = 0.25  # Of LIME, in cosine distance.
  config.index = "FBII"
  config.order = 2
  config.top = 8  # Rows of single players, and of larger sets.


def ask_checkpoint(
  config: ml_collections.ConfigDict, quick: bool, budget: int
) -> None:
  """How a checkpoint of Hugging Face is asked; `budget` of the full size."""
  ask(config, 100 if quick else budget, "lasso" if quick else "auto")
  config.gradient_steps = 64  # Of integrated gradients.
  # Masks in a batch, and those computed at once; None measures what is fastest.
  config.batch_size = config_dict.placeholder(int)
  config.microbatch = config_dict.placeholder(int)
  if quick:
    config.batch_size, config.microbatch = 16, 8


def ask_trained(
  config: ml_collections.ConfigDict,
  budget: int,
  method: str = "auto",
  *,
  batch_size: int,
) -> None:
  """How a model is asked that the command trains: against training data."""
  ask(config, budget, method)
  config.gradient_steps = 64  # Of integrated gradients.
  config.batch_size = batch_size
  config.baseline = "mean"  # Or zero, median, constant, resample.
  config.baseline_value = 0.0  # For constant.
  config.baseline_draws = 16  # For resample.


def train_mlp(
  config: ml_collections.ConfigDict,
  widths: tuple[int, ...],
  num_epochs: int,
  batch_size: int,
) -> None:
  """How a small network is trained, on the examples that are not tested."""
  config.model = ml_collections.ConfigDict()
  config.model.widths = widths
  config.model.activation = "relu"
  config.training = ml_collections.ConfigDict()
  config.training.num_epochs = num_epochs
  config.training.batch_size = batch_size
  config.training.learning_rate = 3e-3
  config.training.optimizer = "adamw"
  config.training.schedule = "cosine"
  config.training.weight_decay = 1e-2
  config.test_fraction = 0.25


def ask_parts(config: ml_collections.ConfigDict, quick: bool) -> None:
  """How parts of a network are asked about."""
  config.players = "heads"  # Or kv_groups, neurons, filters, blocks.
  config.pattern = ""  # Or sites by name, as in blocks.3.*neurons,*.2.attn.z
  config.whole = False  # Each site of `pattern` is one part: whole layers.
  config.absent = "zero"  # Or mean, resample.
  config.draws = 8  # Of resample.
  config.rescale = False  # Scales what is left of a layer up, as ProxySPEX.
  ask_checkpoint(config, quick, 4000)  # Or method=coar, with few absent:
  config.keep = 0.9  # the probability that each part is there.
