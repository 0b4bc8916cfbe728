"""Which training digits help a network tell 3 from 8, alone and together?

All ten classes: `--config.classes=`. Other data: `data_cancer`, `data_file`.
"""

import ml_collections

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: under two minutes on 2 cores; `quick`: seconds."""
  quick = configs.is_quick(size)
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of the split, the networks, the masks: of everything.

  config.data = "digits"  # A name, or a .npz or .csv file.
  config.classes = "3,8"  # Only these, by name; all if empty.
  config.num_train = 24 if quick else 200
  config.num_test = 6 if quick else 32  # Test points that are scored.
  config.points = ""  # Numbers of those explained, as in 0,3,5; or
  config.num_points = 2 if quick else 4  # the least certain ones.
  config.players = "examples"  # Or classes, clusters: groups of examples.
  config.num_clusters = 20

  # Models are retrained on halves of the examples, drawn at random.
  config.budget = 200 if quick else 4000  # Subsets to fit to.
  config.fresh = 32 if quick else 200  # More of them, to judge by.
  # Of initialisation and order, to judge by.
  config.num_seeds = 2 if quick else 4
  # Or lasso, banzhaf, shapley, knn, trak, influence, tracin, metagradient.
  config.method = "datamodel"
  config.decoder = "gram"  # Of sets; or another method of spex.decode.
  config.order = 2  # The largest sets.
  config.checked = 4 if quick else 12  # Sets that are retrained, and how often:
  config.contexts = 8 if quick else 24  # among so many random others.
  config.top = 3 if quick else 5  # Rows of every list.
  config.microbatch = 64  # Trainings side by side; 0 measures.
  config.rows_per_shard = 512  # Trainings that a kill may cost.

  config.neighbours = 5  # Of knn.
  config.damping = 1e-2  # Of influence.
  config.trak_models = 2 if quick else 5
  config.trak_dim = 8 if quick else 64

  config.model = ml_collections.ConfigDict()
  # Or transformer, convnet, on images; logistic, ridge: solved outright.
  config.model.kind = "mlp"
  config.model.widths = (8,) if quick else (64, 32)  # Of the MLP.
  config.model.activation = "relu"
  config.model.width = 8 if quick else 16  # Of transformer and convnet.
  config.model.num_blocks = 1  # Of the transformer; and so on.
  config.model.num_heads = 2
  config.model.patch_size = 4 if quick else 2
  config.model.penalty = 1.0  # Of logistic and ridge.
  config.model.output = "margin"  # Or log_odds, logit.
  config.training = ml_collections.ConfigDict()  # Of networks.
  config.training.num_epochs = 4 if quick else 15
  config.training.batch_size = 8 if quick else 20
  config.training.learning_rate = 1e-2 if quick else 3e-3
  config.training.optimizer = "adam"
  config.training.schedule = "constant"
  config.training.weight_decay = 0.0
  config.training.denominator = "batch"
  config.training.eps_root = 1e-12  # So that training has a derivative.
  return config
