"""Times Inseq's `attribute-context` and ContextCite; prints one JSON line.

  python third_party/time_context.py '{"task": "pecore", "folder": DIR, ...}'

Needs an environment with PyTorch, `transformers` 4.57.6, and Inseq 0.7.1 or
context-cite 0.0.4 (see `record_inseq.py`, `record_context_cite.py`).
`experiments/bench_context.py` runs it.

Tasks: "make" writes a random GPT-2 with a tokenizer of given words to a folder,
"pecore" attributes a given response, the model loaded before, and "cite" runs
ContextCite's forwards at several batch sizes, of which the best counts.
"""

import contextlib
import json
import sys
import time
from typing import Any

import torch
import transformers


def make(given):
  """A checkpoint, of which nothing is trained."""
  import tokenizers
  from tokenizers import models, pre_tokenizers

  words = ["<pad>", "</s>", "<unk>", *given["words"]]
  backend = tokenizers.Tokenizer(
    models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
  )
  backend.pre_tokenizer = pre_tokenizers.Whitespace()
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", eos_token="</s>",
    unk_token="<unk>",
  ).save_pretrained(given["folder"])  # fmt: skip
  torch.manual_seed(0)
  transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=given["vocabulary"], n_embd=given["width"],
      n_head=given["heads"], n_layer=given["layers"],
      n_positions=given["positions"], bos_token_id=1, eos_token_id=1,
    )
  ).save_pretrained(given["folder"])  # fmt: skip
  return {}


def pecore(given):
  """Seconds of one attributed response."""
  import inseq
  from inseq.commands.attribute_context import attribute_context as lib
  from inseq.commands.attribute_context import attribute_context_args as args

  model = inseq.load_model(given["folder"], given["method"])

  def run():
    return lib.attribute_context_with_model(
      args.AttributeContextArgs(
        model_name_or_path=given["folder"],
        attribution_method=given["method"],
        input_context_text=given["context"],
        input_current_text=given["current"],
        input_template="{context} {current}",
        output_current_text=given["response"],
        output_template="{current}",
        context_sensitivity_topk=given["cues"],
        context_sensitivity_std_threshold=None,
        show_viz=False,
        add_output_info=False,
      ),
      model,
    )

  seconds, found = _timed(run, given["repeats"])

  return {
    "tokens": len(found.input_context_tokens),
    "response": len(found.cti_scores),
    "cues": len(found.cci_scores),
    "best_s": round(min(seconds), 3),
    "sentences_per_s": round(1 / min(seconds), 4),
  }


def cite(given):
  """Forwards a second at the best batch size."""
  import record_context_cite

  model = transformers.AutoModelForCausalLM.from_pretrained(given["folder"])
  tokenizer = transformers.AutoTokenizer.from_pretrained(given["folder"])
  rates = {}
  for size in given["batch_sizes"]:
    made = record_context_cite.citer(
      model.eval(), tokenizer, given["sources"], given["query"],
      given["response"], "\n", num_ablations=given["forwards"],
      batch_size=size,
    )  # fmt: skip
    seconds, _ = _timed(made._compute_masks_and_logit_probs, given["repeats"])
    rates[size] = given["forwards"] / min(seconds)
  best = max(rates, key=lambda size: rates[size])
  return {
    "forwards": given["forwards"], "batch_size": best,
    "of_sizes": {size: round(rate, 3) for size, rate in rates.items()},
    "best_s": round(given["forwards"] / rates[best], 3),
    "forwards_per_s": round(rates[best], 4),
  }  # fmt: skip


def _timed(run, repeats):
  """Seconds of each call behind the first, and what the last one gave."""
  seconds: list[float] = []
  found: Any = None
  for _ in range(1 + repeats):
    begin = time.perf_counter()
    found = run()
    seconds.append(time.perf_counter() - begin)
  return seconds[1:] or seconds, found


def main(settings: str) -> None:
  """Prints the row of one task."""
  given = json.loads(settings)
  torch.set_num_threads(given.get("threads", 1))
  tasks = {"make": make, "pecore": pecore, "cite": cite}
  with contextlib.redirect_stdout(sys.stderr):
    row = tasks[given["task"]](given)
  row |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
  print(json.dumps(row))


if __name__ == "__main__":
  main(sys.argv[1])
