"""Real parts of a network as functions of which words of a text it reads.

A neuron's activation, or the length of what a head writes, at the last token
that is seen; words that are absent are removed. Of ten words, so that all 1,024
values are computed at once: the truth is a table, and no interpreter asks as
much.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.ablate import absent, evaluate, readouts
from spex_jax.ablate import text as text_lib
from spex_jax.agents.find import functions
from spex_jax.models import sites

# Ours.
TEXTS = (
  "The old dog slept under a tall tree all day.",
  "Once upon a time a girl found a red ball.",
  "He did not like the soup because it was cold.",
  "The teacher gave Anna and Ben two new green books.",
  "A bird sang loudly, but nobody in town was listening.",
  "When it rains, the little boat stays near the shore.",
  "My brother never eats apples, and he hates ripe pears.",
  "She opened the door, saw the cat, and ran away.",
)


def make(net: sites.Network, seed: int, index: int) -> functions.Function:
  """The function of a number.

  Args:
    net: causal or not, with parameters and a tokenizer.
    seed: of the choice of text, block and unit.
    index: likewise.

  Raises:
    ValueError: a network without parameters, tokenizer, heads and neurons.
  """
  if net.params is None or net.tokenizer is None:
    raise ValueError("Units are of a network with parameters and a tokenizer.")
  name = f"unit-{index:05d}"
  rng = functions.rng(seed, name)
  known = [
    site for site in net.sites if site.endswith((".mlp.neurons", ".attn.heads"))
  ]
  if not known:
    raise ValueError("The network has no site of neurons or of heads.")
  site, text = str(rng.choice(known)), str(rng.choice(TEXTS))
  place = float(rng.random())
  # Something must be left once all words are gone.
  bos = "yes" if "bos" in net.tokenizer.special else "auto"
  prompt = text_lib.prompt(text, net.tokenizer, bos=bos)
  n = prompt.n

  def read(output: sites.Output, inputs: Any) -> jax.Array:
    # [B, P, m] of neurons, [B, P, H, d] of heads.
    found = output.activations[site]
    _, last = readouts.ends(
      readouts.seen_tokens(inputs, inputs["input_ids"].shape)
    )
    unit = min(int(place * found.shape[2]), found.shape[2] - 1)
    row = jnp.take_along_axis(
      found[:, :, unit], last.reshape(-1, *[1] * (found.ndim - 2)), axis=1
    )[:, 0]
    return row if row.ndim == 1 else jnp.linalg.norm(row, axis=-1)

  see = absent.inputs(prompt, net.tokenizer, "remove")
  value = readouts.value(net, see, read, capture=(site,))
  run = evaluate.compiled(value, n, shared=net.params)
  masks = (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)
  table = np.asarray(run(masks), float)

  def values(xs: Any) -> np.ndarray:
    rows = np.asarray(xs, bool)
    if rows.ndim != 2 or rows.shape[1] != n:
      raise ValueError(f"Inputs are rows of {n} bits; got {rows.shape}.")
    return table[rows @ (1 << np.arange(n))]

  about = {
    "category": "unit", "n": n, "outputs": "numbers",
    "inputs": f"rows of {n} bits, which of these words are kept: {text}",
  }  # fmt: skip
  code = (
    f"TABLE = {[float(f'{v:.7g}') for v in table]!r}\n\n"
    "def f(m):\n  return TABLE[sum(int(b) << i for i, b in enumerate(m))]"
  )
  truth = {"site": site, "place": place, "text": text, "code": code}
  tests = masks[functions.rng(seed, name, "tests").permutation(1 << n)[:256]]
  return functions.Function(
    name, "unit", about, truth, values, values, tests.tolist()
  )
