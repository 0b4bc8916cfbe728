"""Real parts of a network as functions of which words of a text it reads.

At the last token that is seen: a neuron's activation; the length of what a head
writes; or a feature, the stream behind a block along one of the directions that
it varies most in over the text's subsets. Words that are absent are removed. Of
ten words, so that all 1,024 values are computed at once: the truth is a table,
and no interpreter asks as much.
"""

from collections.abc import Callable
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
KINDS = {
  "neuron": ".mlp.neurons", "head": ".attn.heads", "feature": ".resid_post",
}  # fmt: skip
_FEATURES = 4  # Directions of a stream.


def maker(net: sites.Network) -> Callable[[int, int], functions.Function]:
  """What makes the function of a seed and a number.

  A text reads one block alone, so that a few programs serve all functions.

  Args:
    net: causal or not, with parameters and a tokenizer.

  Raises:
    ValueError: a network without parameters, tokenizer, heads, neurons and
      stream.
  """
  if net.params is None or net.tokenizer is None:
    raise ValueError("Units are of a network with parameters and a tokenizer.")
  stems = [
    stem
    for stem in (site.removesuffix(KINDS["neuron"]) for site in net.sites)
    if all(stem + site in net.sites for site in KINDS.values())
  ]
  if not stems:
    raise ValueError("The network has no block of heads, neurons and a stream.")
  known: dict[str, dict[str, np.ndarray]] = {}

  def make(seed: int, index: int) -> functions.Function:
    name = f"unit-{index:05d}"
    rng = functions.rng(seed, name)
    kind, text = str(rng.choice([*KINDS])), str(rng.choice(TEXTS))
    stem = str(functions.rng(seed, "block", text).choice(stems))
    if text not in known:
      known[text] = _tables(net, stem, text)
    number = int(rng.integers(known[text][kind].shape[1]))
    return _made(name, known[text][kind][:, number], {
      "kind": kind, "site": stem + KINDS[kind], "number": number, "text": text
    })  # fmt: skip

  return make


def _tables(net: sites.Network, stem: str, text: str) -> dict[str, np.ndarray]:
  """Kind to what its units do under every mask, `[2^n, units]`."""
  # Something must be left once all words are gone.
  tokenizer = net.tokenizer
  assert tokenizer is not None
  bos = "yes" if "bos" in tokenizer.special else "auto"
  prompt = text_lib.prompt(text, tokenizer, bos=bos)
  places = [stem + site for site in KINDS.values()]
  widths: list[int] = []  # Of each kind, known once it is traced.

  def read(output: sites.Output, inputs: Any) -> jax.Array:
    # [B, P, m] of neurons, [B, P, H, d] of heads, [B, P, d] of the stream.
    _, last = readouts.ends(
      readouts.seen_tokens(inputs, inputs["input_ids"].shape)
    )
    rows = jnp.arange(len(last))
    found = [output.activations[place][rows, last] for place in places]
    sizes = [x if x.ndim == 2 else jnp.linalg.norm(x, axis=-1) for x in found]
    widths[:] = [x.shape[1] for x in sizes]
    return jnp.concatenate(sizes, axis=1)

  see = absent.inputs(prompt, tokenizer, "remove")
  value = readouts.value(net, see, read, capture=places)
  run = evaluate.compiled(value, prompt.n, shared=net.params)
  every = np.asarray(run(_masks(prompt.n)), float)
  neurons, lengths, stream = np.split(every, np.cumsum(widths)[:2], axis=1)
  left, sizes, _ = np.linalg.svd(stream - stream.mean(0), full_matrices=False)
  features = (left * sizes)[:, :_FEATURES]
  # Of the two signs that which has the larger peak.
  features *= np.sign(features.max(0) + features.min(0))
  return {"neuron": neurons, "head": lengths, "feature": features}


def _masks(n: int) -> np.ndarray:
  return (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)


def _made(name: str, table: np.ndarray, truth: dict) -> functions.Function:
  n = len(table).bit_length() - 1

  def values(xs: Any) -> np.ndarray:
    rows = np.asarray(xs, bool)
    if rows.ndim != 2 or rows.shape[1] != n:
      raise ValueError(f"Inputs are rows of {n} bits; got {rows.shape}.")
    return table[rows @ (1 << np.arange(n))]

  about = {
    "category": "unit", "n": n, "outputs": "numbers",
    "inputs": f"rows of {n} bits, which of these words are kept: "
    + truth["text"],
  }  # fmt: skip
  code = (
    f"TABLE = {[float(f'{v:.7g}') for v in table]!r}\n\n"
    "def f(m):\n  return TABLE[sum(int(b) << i for i, b in enumerate(m))]"
  )
  tests = _masks(n)[functions.rng(0, name, "tests").permutation(1 << n)[:256]]
  return functions.Function(
    name, "unit", about, truth | {"code": code}, values, values, tests.tolist()
  )
