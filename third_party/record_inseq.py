"""Records what Inseq 0.7.1 gives for random GPT-2 and T5: numbers only.

  python third_party/record_inseq.py tests/context/recorded

Needs an environment with PyTorch, `transformers` 4.57.6 (below 5), `captum`,
`jaxtyping`, `typeguard` 2.13.3, `treescope`, and `inseq` 0.7.1 without its
dependencies. Takes a minute. Each file holds the model's settings and tensors,
the ids of both runs, sensitivities `cti_METRIC`, and for every token of the
output as target the scores of its context, `cci_METHOD_TARGET`.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import tokenizers
import torch
import transformers
from inseq.commands.attribute_context.attribute_context import (
  attribute_context,
)
from inseq.commands.attribute_context.attribute_context_args import (
  AttributeContextArgs,
)
from tokenizers import models, pre_tokenizers, processors

WORDS = [
  "the", "cat", "sat", ".", "it", "was", "big", "and", "red", "today", "dog",
  "ran", "he", "she", "they", "saw", "a", "small", "house", "near", "river",
  "old", "man", "blue",
]  # fmt: skip
CONTEXT, CURRENT, ANSWER = (
  "the cat sat near a dog .",
  "it was",
  "big and red today",
)
METRICS = (
  "kl_divergence", "pcxmi", "in_context_pvi", "contrast_prob_diff",
  "contrast_prob",
)  # fmt: skip
METHODS = ("saliency", "input_x_gradient", "occlusion", "attention")
TARGETS = ("pcxmi", "in_context_pvi", "contrast_prob_diff", "kl_divergence")


def _tokenizer(family):
  special = ["<pad>", "</s>", "<unk>"]
  vocab = {word: i for i, word in enumerate([*special, *WORDS])}
  backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
  backend.pre_tokenizer = pre_tokenizers.Whitespace()
  if family == "t5":
    backend.post_processor = processors.TemplateProcessing(
      single="$A </s>", special_tokens=[("</s>", 1)]
    )
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", eos_token="</s>",
    unk_token="<unk>", bos_token="</s>" if family == "gpt2" else None,
  )  # fmt: skip


def _model(family, vocab_size):
  if family == "gpt2":
    model = transformers.GPT2LMHeadModel(
      transformers.GPT2Config(
        vocab_size=vocab_size, n_embd=16, n_head=2, n_layer=2, n_positions=40,
        bos_token_id=1, eos_token_id=1,
      )
    )  # fmt: skip
  else:
    model = transformers.T5ForConditionalGeneration(
      transformers.T5Config(
        vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=24, num_layers=2,
        num_heads=2, relative_attention_num_buckets=8, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
      )
    )  # fmt: skip
  generator = torch.Generator().manual_seed(3)
  with torch.no_grad():
    for value in model.parameters():
      noise = torch.randn(value.shape, generator=generator)
      value.copy_(1 + 0.2 * noise if value.ndim == 1 else 0.35 * noise)
  return model.eval()


def _ask(folder, **settings):
  args = AttributeContextArgs(
    model_name_or_path=str(folder),
    input_context_text=CONTEXT,
    input_current_text=CURRENT,
    input_template="{context} {current}",
    output_current_text=ANSWER,
    output_template="{current}",
    context_sensitivity_std_threshold=None,
    show_viz=False,
    add_output_info=False,
    **settings,
  )
  return attribute_context(args).to_dict()


def record(family, path):
  """Writes `FAMILY.npz`, and `FAMILY.json` as Inseq saves its last answer."""
  tokenizer = _tokenizer(family)
  model = _model(family, len(tokenizer))
  arrays = {
    f"t_{name}": x.numpy()
    for name, x in model.state_dict().items()
    if "embed_tokens" not in name
    and not (family == "gpt2" and name == "lm_head.weight")
    and not (family == "t5" and name == "lm_head.weight")
  }
  ids = lambda text, special=True: np.array(
    tokenizer(text, add_special_tokens=special).input_ids
  )
  answer = ids(ANSWER, False)
  heads = [ids(f"{CONTEXT} {CURRENT}"), ids(CURRENT)]
  if family == "gpt2":
    heads = [np.append(head, answer) for head in heads]
  settings = model.config.to_dict()
  settings.pop("is_decoder")  # False, as everywhere.
  arrays |= {
    "config": np.array(json.dumps(settings)),
    "with_context": heads[0],
    "without_context": heads[1],
    "response": answer,
    "context": np.array([0, len(ids(CONTEXT, False))]),
  }
  extra = {"generation_kwargs": {"forced_eos_token_id": 1}}
  extra = extra if family == "t5" else {}
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = {}
    for metric in METRICS:
      found = _ask(
        folder, attribution_method="attention", attributed_fn=TARGETS[0],
        context_sensitivity_metric=metric, **extra,
      )  # fmt: skip
      assert len(found["cti_scores"]) == len(answer), found
      arrays[f"cti_{metric}"] = np.array(found["cti_scores"])
    found = {}
    for method in METHODS:
      for target in TARGETS:
        found = _ask(
          folder, attribution_method=method, attributed_fn=target, **extra
        )
        rows = sorted(found["cci_scores"], key=lambda cue: cue["cti_idx"])
        arrays[f"cci_{method}_{target}"] = np.array(
          [cue["input_context_scores"] for cue in rows]
        )
        arrays[f"contrast_{target}"] = np.array(
          tokenizer.convert_tokens_to_ids([x["contrast_token"] for x in rows])
        )
    (path / f"{family}.json").write_text(
      json.dumps(found, ensure_ascii=False, indent=1) + "\n"
    )
  np.savez_compressed(path / f"{family}.npz", **arrays)


if __name__ == "__main__":
  folder = pathlib.Path(sys.argv[1])
  folder.mkdir(parents=True, exist_ok=True)
  for family in ("gpt2", "t5"):
    record(family, folder)
