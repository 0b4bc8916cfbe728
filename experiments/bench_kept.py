"""Rows of `bench_evaluate` on texts whose absent words are not computed.

`kept, NETWORK, WAY`: uniform masks of the words of a text, hidden from
attention or removed; every row of the text's full length (`whole`), or of the
least of a few lengths that takes what is kept (`kept`; `absent.lengths`). Each
side at the microbatch that suits it, in turns; `masks_per_s` of `whole` and of
`kept` is by the clock, `times` how many more `kept` does, `times_processor` the
same in processor time, which a busy machine distorts less; of the best turn of
each. `difference` is the largest between values, beside their `range`.
`compile_s` is of all programs of either side; a compilation cache that is on
shortens it.

Networks: all-MiniLM-L6-v2 on the review of `cards.json`, 55 words, with a
linear head; a causal model from a folder (SmolLM2-135M, say) on the first 200
words of a novel, log-probability of its likeliest next token; at the quick size
one of GPT-2's kind with random weights instead. Expect 1.6 times or more.

Shapes: n players, P tokens, B masks.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments import bench_networks, recorded_games, rows
from spex_jax.ablate import absent, evaluate, readouts, text
from spex_jax.models import hub, sites

_BUDGET = 4096  # Declared; lengths follow from it.
# Jane Austen, Pride and Prejudice (1813), the beginning.
_NOVEL = """
It is a truth universally acknowledged, that a single man in possession of a
good fortune, must be in want of a wife. However little known the feelings or
views of such a man may be on his first entering a neighbourhood, this truth is
so well fixed in the minds of the surrounding families, that he is considered
as the rightful property of some one or other of their daughters. "My dear Mr.
Bennet," said his lady to him one day, "have you heard that Netherfield Park is
let at last?" Mr. Bennet replied that he had not. "But it is," returned she;
"for Mrs. Long has just been here, and she told me all about it." Mr. Bennet
made no answer. "Do not you want to know who has taken it?" cried his wife
impatiently. "You want to tell me, and I have no objection to hearing it." This
was invitation enough. "Why, my dear, you must know, Mrs. Long says that
Netherfield is taken by a young man of large fortune from the north of England;
that he came down on Monday in a chaise and four to see the place, and was so
much delighted with it that he agreed with Mr. Morris immediately"
"""


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the measurements.

  Attributes:
    encoder: masks in a turn, batch, and microbatches to try, of MiniLM.
    causal: the same of the causal model.
    words: of the novel.
    turns: of each side.
  """

  encoder: tuple[int, int, tuple[int, ...]] = (512, 32, (4, 8))
  causal: tuple[int, int, tuple[int, ...]] = (32, 8, (1, 2))
  words: int = 200
  turns: int = 2


CONFIGS = {
  "quick": Config(
    encoder=(4, 4, (2,)), causal=(16, 4, (2,)), words=24, turns=1
  ),
  "full": Config(),
}  # fmt: skip


def run(
  config: Config,
  common: rows.Row,
  *,
  games: pathlib.Path | None,
  minilm: str | None,
  causal: str | None,
) -> Iterator[rows.Row]:
  """Yields the rows; those of networks that are not at hand say so.

  Args:
    config: sizes. The quick one needs no checkpoint.
    common: what every row says.
    games: folder of `cards.json`, or None.
    minilm: folder of its checkpoint, or None.
    causal: folder of a causal model, or None.
  """
  card = recorded_games.cards_of(games).get("sentiment55")
  folder = recorded_games.folder_of(card, games, minilm)
  if card is None or folder is None:
    yield common | {"who": "kept, minilm", "skipped": "no checkpoint at hand"}
  else:
    net = hub.load(folder)
    coef = np.asarray(card["coef"], np.float32).reshape(-1)
    review = text.prompt(card["joined_by"].join(card["words"]), net.tokenizer)
    linear = lambda output, inputs: output.logits @ coef
    for way in ("hide", "remove"):
      made = _both(net, net.params, review, net.tokenizer, way, linear)
      yield common | _measured(f"minilm, {way}", config.encoder, config, *made)
  for name, net, params, prompt, tokenizer, read in _causal(config, causal):
    for way in ("hide", "remove"):
      made = _both(net, params, prompt, tokenizer, way, read)
      yield common | _measured(f"{name}, {way}", config.causal, config, *made)
  if causal is None and config != CONFIGS["quick"]:
    yield common | {"who": "kept, causal", "skipped": "no checkpoint at hand"}


def _causal(config: Config, folder: str | None) -> Iterator[tuple[Any, ...]]:
  """Name, network, parameters, prompt, tokenizer and readout, if at hand."""
  if folder is not None:
    net = hub.load(folder)
    words = " ".join(_NOVEL.split()[: config.words])
    prompt = text.prompt(words, net.tokenizer, bos="yes")
    ids = {"input_ids": prompt.encoding.ids[None], "logits_to_keep": 1}
    # The position is static, so it is closed over.
    last = jax.jit(
      lambda params: net.apply(params, **ids).logits[0, -1].argmax()
    )
    read = readouts.log_probability(int(last(net.params)))
    name = pathlib.Path(folder).resolve().name
    yield name, net, net.params, prompt, net.tokenizer, read
  elif config == CONFIGS["quick"]:
    sizes = bench_networks.CONFIGS["quick"]
    sizes = dataclasses.replace(sizes, length=4 * config.words)
    net, params = bench_networks.random_network(sizes)
    prompt = bench_networks.random_prompt(
      dataclasses.replace(sizes, players=config.words)
    )
    read = readouts.log_probability(1)
    yield "random", net, params, prompt, bench_networks.PADDING, read


def _both(
  net: sites.Network,
  params: Any,
  prompt: text.Prompt,
  tokenizer: Any,
  way: str,
  read: readouts.Readout,
) -> tuple[int, Callable[..., evaluate.Evaluator]]:
  """n, and the evaluator of a side at a batch and a microbatch."""

  def make(side: str, batch: int, micro: int) -> evaluate.Evaluator:
    lengths = ()
    if side == "kept":
      lengths = absent.lengths(prompt, way, _BUDGET)
    see = absent.inputs(prompt, tokenizer, way, lengths=lengths)
    f = readouts.value(net, see, read)
    return evaluate.compiled(
      f, prompt.n, shared=params, batch_size=batch, microbatch=micro,
      devices=jax.devices()[:1],
    )  # fmt: skip

  return prompt.n, make


def _measured(who, sizes, config, n, make) -> rows.Row:
  count, batch, micros = sizes
  masks = np.random.default_rng(0).random((count, n)) < 0.5
  sides = ("whole", "kept")
  made = {(side, micro): make(side, batch, micro)
          for side in sides for micro in micros}  # fmt: skip
  for value_fn in made.values():
    value_fn(masks[:batch])
  # Least seconds, by the clock and in processor time, and values.
  spent = dict.fromkeys(made, (np.inf, np.inf))
  values = {}
  for _ in range(config.turns):
    for (side, micro), value_fn in made.items():
      clock, processor, values[side] = _seconds(value_fn, masks)
      least = spent[side, micro]
      spent[side, micro] = min(least[0], clock), min(least[1], processor)
  # Others may be running: their time does not choose.
  best = {
    side: min(micros, key=lambda micro, side=side: spent[side, micro][1])
    for side in sides
  }
  stats = {side: made[side, best[side]].stats for side in sides}
  whole, kept = (spent[side, best[side]] for side in sides)
  return {
    "who": f"kept, {who}",
    "masks": count,
    "lengths": list(stats["kept"].sizes),
    "best": best,
    "masks_per_s": [round(count / side[0], 2) for side in (whole, kept)],
    "times": round(whole[0] / kept[0], 2),
    "times_processor": round(whole[1] / kept[1], 2),
    "difference": float(np.abs(values["whole"] - values["kept"]).max()),
    "range": round(float(np.ptp(values["whole"])), 3),
    "compile_s": [round(stats[side].compile_seconds, 1) for side in sides],
    "load": bench_networks.load(),
  }


def _seconds(value_fn, masks) -> tuple[float, float, np.ndarray]:
  """By the clock, in processor time, and the values."""
  clock, processor = time.perf_counter(), time.process_time()
  values = value_fn(masks)
  return time.perf_counter() - clock, time.process_time() - processor, values
