"""Records what ContextCite 0.0.4 gives for a random GPT-2: numbers only.

  python third_party/record_context_cite.py tests/context/recorded

Needs an environment with PyTorch, `transformers` below 5 and `context-cite`
0.0.4. Takes seconds. `context_cite.npz` holds the model's settings and tensors,
the ids of sources, query and response, the masks, the log-odds of every token
under each, and for some spans of the response `START:STOP` the value of each
mask and the weights and bias of the lasso.
"""

import json
import pathlib
import sys

import numpy as np
import tokenizers
import torch
import transformers
from context_cite import ContextCiter, context_partitioner, utils
from tokenizers import models, pre_tokenizers

SOURCES = (
  "the cat sat near a dog .", "it was big .", "he saw the old house .",
  "they ran .", "a red river was near .",
)  # fmt: skip
QUERY, RESPONSE = "today she saw", "the small blue cat"
SPANS = ((0, 4), (1, 3), (2, 3))
MASKS = 40


class Given(context_partitioner.BaseContextPartitioner):
  """Sources as they are given, each with what stands behind it."""

  def __init__(self, texts, separator=" "):
    self.texts, self.separator = list(texts), separator
    super().__init__(self.get_context())

  num_sources = property(lambda self: len(self.texts))

  def split_context(self):
    """They are split already."""

  def get_source(self, index):
    return self.texts[index]

  def get_context(self, mask=None):
    kept = self.texts if mask is None else np.array(self.texts)[mask]
    return "".join(text + self.separator for text in kept)


def citer(model, tokenizer, texts, query, response, separator=" ", **settings):
  """A ContextCiter of a response that is given, without a chat's words."""
  tokenizer.chat_template = "{{ messages[0]['content'] }}"
  tokenizer.padding_side = "left"
  sources = Given(texts, separator)
  made = ContextCiter(
    model, tokenizer, sources.context, query, partitioner=sources,
    prompt_template="{context}{query}", **settings,
  )  # fmt: skip
  made._cache["output"] = f"{sources.context}{query}{response}"
  return made


def _model():
  words = " ".join((*SOURCES, QUERY, RESPONSE)).split()
  special = ["<pad>", "</s>", "<unk>"]
  vocab = {word: i for i, word in enumerate([*special, *sorted({*words})])}
  backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
  backend.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", eos_token="</s>",
    unk_token="<unk>",
  )  # fmt: skip
  model = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=len(vocab), n_embd=16, n_head=2, n_layer=2, n_positions=48,
      bos_token_id=1, eos_token_id=1,
    )
  )  # fmt: skip
  generator = torch.Generator().manual_seed(3)
  with torch.no_grad():
    for value in model.parameters():
      noise = torch.randn(value.shape, generator=generator)
      value.copy_(1 + 0.2 * noise if value.ndim == 1 else 0.35 * noise)
  return model.eval(), tokenizer


def record(path):
  """Writes `context_cite.npz`."""
  model, tokenizer = _model()
  ids = lambda text: np.array(tokenizer(text).input_ids, np.int32)
  made = citer(
    model, tokenizer, SOURCES, QUERY, f" {RESPONSE}", num_ablations=MASKS
  )
  assert list(made._response_ids) == ids(RESPONSE).tolist()
  settings = model.config.to_dict()
  settings.pop("is_decoder", None)  # False, as everywhere.
  arrays = {
    f"t_{name}": x.numpy()
    for name, x in model.state_dict().items()
    if name != "lm_head.weight"
  }
  arrays |= {f"source_{i}": ids(text) for i, text in enumerate(SOURCES)}
  arrays |= {
    "config": np.array(json.dumps(settings)),
    "query": ids(QUERY), "response": ids(RESPONSE),
    "masks": made._masks, "log_odds": made._logit_probs,
  }  # fmt: skip
  for start, stop in SPANS:
    weights, bias = made._get_attributions_for_ids_range(start, stop)
    arrays |= {
      f"values_{start}:{stop}": utils.aggregate_logit_probs(
        made._logit_probs[:, start:stop]
      ),
      f"weights_{start}:{stop}": np.append(weights, bias),
    }
  np.savez_compressed(path / "context_cite.npz", **arrays)


if __name__ == "__main__":
  record(pathlib.Path(sys.argv[1]))
