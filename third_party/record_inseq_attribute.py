"""Records what Inseq 0.7.1's `attribute` gives for random GPT-2 and T5.

  python -m third_party.record_inseq_attribute tests/context/recorded [NAME...]

With names, of arrays below, these alone are recorded anew. Takes 3 minutes.
Numbers only, of the models and texts of `record_inseq.py`, whose environment it
needs, and `scikit-learn` and `joblib` besides. Each file holds scores by name,
`METHOD` `[tokens, steps]`, joined as Inseq joins them and not normalised, of a
T5 those of the decoder's tokens as `METHOD_target` (`METHOD_both` where they
change the others); step scores as `step_NAME`, and attributed ones as
`saliency_NAME`. `FAMILY_attribution.json` is what Inseq saves of saliency.

What is changed of Inseq: for value zeroing the variable that its settings name
for GPT-2 is called `value_states` since transformers 4.50; ReAGent's sampler is
a uniform one, for there is no nltk, and all that it draws is drawn anew at
every step, from NumPy, and kept as `reagent_*`; neighbours of discretized
gradients are `NEIGHBOURS`, for the argument is lost on its way. Crossentropy
and perplexity are of the first of two equal texts, for of one they fail, and so
of T5 alone. Layer integrated gradients are 0 everywhere, and are not kept.
"""

import pathlib
import sys
import tempfile

import inseq
import numpy as np
import torch
from inseq.attr.feat import perturbation_attribution
from inseq.attr.feat.ops import monotonic_path_builder, reagent
from inseq.attr.feat.ops.reagent_core import (
  importance_score_evaluator,
  token_replacer,
)

from third_party import record_inseq

METHODS = (
  "saliency", "input_x_gradient", "integrated_gradients",
  "sequential_integrated_gradients", "discretized_integrated_gradients",
  "layer_gradient_x_activation", "occlusion",
  "attention", "value_zeroing", "reagent",
)  # fmt: skip
LAYER = {"gpt2": "transformer.h.0.mlp", "t5": "encoder.block.0.layer.1"}
STEPS = (
  "logit", "probability", "entropy", "contrast_logits",
  "contrast_prob", "contrast_logits_diff", "contrast_prob_diff", "pcxmi",
  "in_context_pvi", "kl_divergence",
)  # fmt: skip
DOUBLED = ("crossentropy", "perplexity")
ATTRIBUTED = (
  "logit", "entropy", "crossentropy", "perplexity", "contrast_logits",
  "contrast_prob_diff", "contrast_logits_diff", "pcxmi", "in_context_pvi",
)  # fmt: skip
RIVAL = "big and blue river"
NEIGHBOURS = 8
ROUNDS, PROBES, WIDTH = 30, 16, 16


class Drawn:
  """The same draws at every step of a generation: `[ROUNDS, PROBES, WIDTH]`."""

  def __init__(self, vocab_size):
    rng = np.random.default_rng(5)
    shape = (ROUNDS, PROBES, WIDTH)
    self.start = rng.random(shape[1:])
    self.replaced = rng.random(shape) < 0.3
    self.tokens = rng.integers(3, vocab_size, shape)
    self.others = rng.integers(3, vocab_size, shape)
    self.reset()

  def reset(self):
    self.round, self.asked = -1, 0

  def rand(self, shape, **kwargs):
    """In the place of `torch.rand`: the start, then a mask each round."""
    del kwargs
    width = shape[-1]
    if self.round < 0:
      found = self.start[:, :width]
    else:
      # The replacer asks for what is below its ratio.
      found = np.where(self.replaced[self.round, :, :width], 0.0, 1.0)
    self.round += 1
    return torch.tensor(found, dtype=torch.float32)

  def sample(self, ids):
    """The sampler, of the replacer and then of the stopping condition."""
    own = (self.tokens, self.others)[self.asked % 2][self.asked // 2]
    self.asked += 1
    return torch.tensor(own[:, : ids.shape[1]])


def _patched(drawn):
  """Reagent's chance, and the shape of its target."""

  class Sampler:
    def __init__(self, *args, **kwargs):
      del args, kwargs

    def __call__(self, ids):
      return drawn.sample(ids)

  reagent.POSTagTokenSampler = Sampler
  own = type("Torch", (), {})()
  for name in dir(torch):
    setattr(own, name, getattr(torch, name))
  own.rand = drawn.rand
  importance_score_evaluator.torch = own
  token_replacer.torch = own

  class Reagent(reagent.Reagent):
    def attribute(self, *args, **kwargs):
      drawn.reset()
      return super().attribute(*args, **kwargs)

  perturbation_attribution.Reagent = Reagent


def _with_neighbours():
  load = monotonic_path_builder.MonotonicPathBuilder.load
  monotonic_path_builder.MonotonicPathBuilder.load = staticmethod(
    lambda *args, **kwargs: load(
      *args, **kwargs, n_neighbors=NEIGHBOURS, save_cache=False
    )
  )


def _joined(sequence, side):
  """Scores `[tokens, steps]` as Inseq joins them, NaN as 0."""
  scores = getattr(sequence, f"{side}_attributions")
  if scores is None:
    return None
  scores = np.nan_to_num(scores.float().numpy())
  name = type(sequence).__name__
  if scores.ndim == 3 and name.startswith("Granular"):
    scores = np.linalg.norm(scores, axis=-1)
  while scores.ndim > 2:
    scores = scores.mean(axis=-1)
  return scores


def _settings(method, layer=None):
  found = {}
  if method.startswith("layer"):
    found["target_layer"] = layer
  if method == "reagent":
    found |= {"max_probe_steps": ROUNDS, "num_probes": PROBES}
  return {k: v for k, v in found.items() if v is not None}


def record(family, path, names):
  """Writes `FAMILY_attribute.npz`, and says what Inseq cannot do."""
  tokenizer = record_inseq._tokenizer(family)
  model = record_inseq._model(family, len(tokenizer))
  drawn = Drawn(len(tokenizer))
  _patched(drawn)
  file = path / f"{family}_attribute.npz"
  arrays = dict(np.load(file)) if names else {}
  arrays |= {
    f"reagent_draw_{k}": getattr(drawn, k)
    for k in ("start", "replaced", "tokens", "others")
  }
  source = f"{record_inseq.CONTEXT} {record_inseq.CURRENT}"
  ahead = f"{source} " if family == "gpt2" else ""
  answer, rival = (f"{ahead}{x}" for x in (record_inseq.ANSWER, RIVAL))
  ids = lambda text: np.array(
    tokenizer(text, add_special_tokens=False).input_ids
  )
  arrays["rival"] = ids(RIVAL)
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def run(name, method, layer=None, twice=False, **settings):
      if names and name not in names:
        return None
      try:
        own = inseq.load_model(folder, method, **_settings(method, layer))
        if method == "value_zeroing" and family == "gpt2":
          own.attribution_method.attribution_model.config.value_vector = (
            "value_states"
          )
        texts = [[x] * 2 if twice else x for x in (source, answer)]
        out = own.attribute(*texts, show_progress=False, **settings)
      except Exception as error:
        print(family, name, "fails:", type(error).__name__, str(error)[:150])
        return None
      sequence = out.sequence_attributions[0]
      if name == "saliency":
        own = {"model_name": family, "tokenizer_name": family}
        out.info = {k: v for k, v in out.info.items() if k != "exec_time"} | own
        out.save(path / f"{family}_attribution.json", overwrite=True)
      for side in ("source", "target"):
        scores = _joined(sequence, side)
        if scores is not None and not name.startswith("printed"):
          last = f"{name}_target" if side == "target" else name
          arrays[name if family == "gpt2" else last] = scores
      print(family, name, "done", type(sequence).__name__, flush=True)
      return sequence

    for method in METHODS:
      run(method, method)
      if family == "t5" and not method.startswith("layer"):
        run(f"{method}_both", method, attribute_target=True)
      if method.startswith("layer"):
        run(f"{method}_deep", method, LAYER[family])
    contrast = {"contrast_targets": rival}
    # A divergence of a share of the tokens is NaN, so it is of all.
    for last, own, other in (
      ("", STEPS, contrast),
      ("_doubled", DOUBLED, {"twice": True}),
      ("_share", ("top_p_size",), {"top_p": 0.7}),
    ):
      found = run(f"printed{last}", "saliency", step_scores=list(own), **other)
      if found is not None:
        arrays |= {f"step_{x}": found.step_scores[x].numpy() for x in own}
    for name in ATTRIBUTED:
      own = contrast if name.startswith(("contrast", "pc", "in_")) else {}
      run(
        f"saliency_{name}", "saliency", twice=name in DOUBLED,
        attributed_fn=name, **own,
      )  # fmt: skip
      if own:
        run(
          f"saliency_{name}_forced", "saliency", attributed_fn=name,
          contrast_force_inputs=True, **own,
        )  # fmt: skip
    run(
      "saliency_kl_divergence_forced", "saliency",
      attributed_fn="kl_divergence", contrast_force_inputs=True, **contrast,
    )  # fmt: skip
  np.savez_compressed(file, **arrays)


if __name__ == "__main__":
  _with_neighbours()
  folder = pathlib.Path(sys.argv[1])
  folder.mkdir(parents=True, exist_ok=True)
  for family in ("gpt2", "t5"):
    record(family, folder, sys.argv[2:])
