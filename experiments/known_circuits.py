"""Networks whose circuits are known, and how well scores find these.

  python -m experiments.bench_circuits --rows=known

planted    writers and readers of chosen subspaces of the stream; nothing else
           is connected to the output
reverse,   what Tracr compiles from programs (Lindner et al. 2023, arXiv
share      2301.05062), as `third_party/record_tracr.py` recorded it: under
           resampling, prompts of one length differ in what the program's own
           heads and MLPs carry from the tokens, and in nothing else
induction  a network that is trained, with a head in each of two layers: one
           looks at the token before, the other at what followed the last
           token's equal, as their patterns say; a corrupted prompt lacks that
           equal. With more heads several share the work, and where a circuit
           ends is a matter of degree.

Shapes: N pairs, P positions, E edges, d width.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import rows
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judges, metrics, scores
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.fourier import score
from spex_jax.jobs import circuits_toy, subjects
from spex_jax.models import attention, sites, transformer

Edge = tuple[str, str, int]
RECORDED = (
  pathlib.Path(__file__).parents[1] / "tests/circuits/recorded/tracr.npz"
)
TOY = dataclasses.replace(circuits_toy.TOY, num_heads=1)
_SCORES: dict[str, dict[str, Any]] = {
  "exact": {"method": "exact"},
  "eap-ig": {"method": "eap-ig", "steps": 5},
  "eap": {"method": "eap"},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
  """A network, pairs of prompts, and the edges that carry the answer.

  Attributes:
    name: of it.
    net: without parameters.
    params: its parameters.
    pairs: whose metric is the difference of logits.
    edges: the circuit.
  """

  name: str
  net: sites.Network
  params: Any
  pairs: pairs_lib.Pairs
  edges: frozenset[Edge]

  @property
  def circuit(self) -> graph_lib.Circuit:
    """The edges, of the network's graph."""
    return graph_lib.Graph.of(self.net).circuit(sorted(self.edges))


def measure(
  seed: int = 0,
  toy: circuits_toy.Toy = TOY,
  training: subjects.Training = circuits_toy.TRAINING,
) -> Iterator[rows.Row]:
  """Yields for each network how its circuit is found, in float64.

  Args:
    seed: of the one that is trained.
    toy: its sizes.
    training: how it is trained.
  """
  trained = induction(seed, toy, training)
  with jax.enable_x64(True):
    for known in (planted(), tracr("reverse"), tracr("share"), trained):
      yield {"who": "known", "network": known.name} | found(known)


def found(known: Known) -> dict[str, Any]:
  """Areas under ROC curves of scores, and what the circuit does alone."""
  given = known.net, known.params, known.pairs
  metric, circuit = metrics.logit_difference, known.circuit
  area, beside = {}, {}
  for name, settings in _SCORES.items():
    size = np.abs(scores.score(*given, metric, check=0, **settings).mean())
    area[name] = round(score.auroc(size, circuit.kept), 4)
    beside[name] = float(size[~circuit.kept].max() / size.max())
  judged = judges.faithfulness(*given, [circuit], metric)
  return {
    "edges": len(circuit), "of": len(circuit.graph), "pairs": len(known.pairs),
    "auroc": area, "largest_outside": beside,
    "faithfulness": round(float(judged.faithfulness()[0]), 4),
  }  # fmt: skip


def planted() -> Known:
  """No norms, and attention that looks everywhere alike.

  The stream has parts A to F of four entries. embed writes A; head 0.0 takes A
  to B, the MLP of block 0 B to C, head 1.0 C to D, which the logits read. Head
  0.1 takes A to a part that nobody reads, and so do the others, in vain.
  """
  config = transformer.Config(
    width=24, num_blocks=2, num_heads=2, num_kv_heads=2, head_width=4,
    num_neurons=6, norm="none", activation="relu", qkv_bias=False,
    out_bias=False, mlp_bias=False, vocab_size=4, max_positions=3, tied=False,
  )  # fmt: skip
  net = transformer.network(config)
  params = _zeros(net)
  rng = np.random.default_rng(0)
  part = {name: slice(4 * i, 4 * i + 4) for i, name in enumerate("ABCDEF")}
  draw = lambda *shape: rng.uniform(0.5, 1.5, shape)
  params["tokens"]["table"][:, part["A"]] = draw(4, 4)
  params["head"]["kernel"][part["D"]] = rng.normal(size=(4, 4))

  def head(block: int, number: int, source: str, target: str) -> None:
    attn = params[f"blocks_{block}"]["attn"]
    attn["v"]["kernel"][part[source], number] = draw(4, 4)
    attn["out"]["kernel"][number, :, part[target]] = draw(4, 4)
    for kind in "qk":  # What nobody writes.
      attn[kind]["kernel"][part["F"], number] = draw(4, 4)

  head(0, 0, "A", "B")
  head(0, 1, "A", "E")
  head(1, 0, "C", "D")
  head(1, 1, "B", "E")
  mlps = [params[f"blocks_{i}"]["mlp"] for i in (0, 1)]
  for mlp, source, target in zip(mlps, "BD", "CE"):
    mlp["up"]["kernel"][part[source]] = draw(4, 6)
    mlp["down"]["kernel"][:, part[target]] = draw(6, 4)
  rows_of = (
    [[0, 1, 2], [3, 3, 1]], [[1, 1, 3], [2, 0, 0]], [3, 3], [[0], [1]],
    [[3], [2]],
  )  # fmt: skip
  clean, other, lengths, right, wrong = map(np.array, rows_of)
  pairs = pairs_lib.Pairs(clean, other, lengths, right, wrong)
  edges = {
    ("embed", "blocks.0.attn.v_in", 0),
    ("blocks.0.heads.0", "blocks.0.mlp.read", 0),
    ("blocks.0.mlp", "blocks.1.attn.v_in", 0),
    ("blocks.1.heads.0", "final_norm.in", 0),
  }
  return Known("planted", net, params, pairs, frozenset(edges))


class _Around(transformer.Decoder):
  """Attention to all positions, as Tracr's programs have it."""

  def _contexts(self, input_ids, attention_mask, position_ids):
    del attention_mask, position_ids
    length = input_ids.shape[1]
    seen = jnp.ones((1, 1, length, length), bool)
    return [attention.Context(seen, None)] * self.config.num_blocks


_PROGRAMS = {
  # The last head copies the token at the mirrored position; which one that is,
  # heads and MLPs before it say by positions alone.
  "reverse": {
    ("embed", "blocks.3.attn.v_in", 0),
    ("blocks.3.heads.0", "final_norm.in", 0),
  },
  # Whether a token is "x", and the mean of that over those so far.
  "share": {
    ("embed", "blocks.0.mlp.read", 0),
    ("blocks.0.mlp", "blocks.1.attn.v_in", 0),
    ("blocks.1.heads.0", "final_norm.in", 0),
  },
}
_X = 2  # Its id; "y" and "z" follow, 0 and 1 are Tracr's own.


def tracr(name: str) -> Known:
  """A compiled program: "reverse", or "share" of "x" among the tokens so far.

  Every position of every prompt is a pair, as `lengths` says: the network reads
  all of the prompt there.

  Raises:
    KeyError: another name.
  """
  with np.load(RECORDED) as file:
    given = {
      key.removeprefix(f"{name}/"): value
      for key, value in file.items()
      if key.startswith(f"{name}/")
    }
  width, key_width = given["transformer/layer_0/attn/query/w"].shape
  blocks = 1 + max(
    int(key.split("_")[1].split("/")[0]) for key in given if "layer_" in key
  )
  vocab = len(given["token_embed/embeddings"])
  neurons = given["transformer/layer_0/mlp/linear_1/b"].size
  config = transformer.Config(
    width=width, num_blocks=blocks, num_heads=1, num_kv_heads=1,
    head_width=key_width, num_neurons=neurons, norm="none", activation="relu",
    score_scale=key_width**-0.5, vocab_size=vocab,
    max_positions=len(given["pos_embed/embeddings"]), tied=False,
  )  # fmt: skip
  net = transformer.network(config)
  net = dataclasses.replace(net, module=_Around(config))
  params = _zeros(net)
  params["tokens"]["table"][:] = given["token_embed/embeddings"]
  params["positions"]["table"][:] = given["pos_embed/embeddings"]
  output = given["output"]
  params["head"]["kernel"][output, _X + np.arange(len(output))] = 1
  for number in range(blocks):
    own = params[f"blocks_{number}"]
    at = f"transformer/layer_{number}/"
    for ours, theirs in (
      ("attn/q", "attn/query"), ("attn/k", "attn/key"),
      ("attn/v", "attn/value"), ("attn/out", "attn/linear"),
      ("mlp/up", "mlp/linear_1"), ("mlp/down", "mlp/linear_2"),
    ):  # fmt: skip
      part, leaf = ours.split("/")
      into = own[part][leaf]
      into["kernel"][:] = given[f"{at}{theirs}/w"].reshape(into["kernel"].shape)
      into["bias"][:] = given[f"{at}{theirs}/b"].reshape(into["bias"].shape)
  pairs = _spoken(given["ids"], name)
  return Known(name, net, params, pairs, frozenset(_PROGRAMS[name]))


def _spoken(ids, name):
  """Prompts `[N, P]` against others, at every position but the first."""
  clean = np.array(ids)
  other = clean.copy()
  if name == "reverse":  # All tokens change.
    other[:, 1:] = _X + (clean[:, 1:] - _X + 1) % 3
  else:  # No "x" is left, where there was one at least.
    clean[:, 1] = _X
    other[:, 1:] = np.where(clean[:, 1:] == _X, _X + 1, clean[:, 1:])
  length = ids.shape[1]
  at = np.tile(np.arange(1, length), len(ids))
  row = np.repeat(np.arange(len(ids)), length - 1)
  right = np.full(len(at), _X)
  wrong = right + 1  # What nobody writes.
  if name == "reverse":
    right, wrong = clean[row, length - at], other[row, length - at]
  return pairs_lib.Pairs(
    clean[row], other[row], at + 1, right[:, None], wrong[:, None]
  )


def induction(
  seed: int,
  toy: circuits_toy.Toy = TOY,
  training: subjects.Training = circuits_toy.TRAINING,
  num: int = 16,
) -> Known:
  """A network of two layers that is trained to continue what it has read.

  Its circuit: of the token where the last one stood first, by the values of
  heads that look at the token before, to the keys of heads that look from the
  last token to what followed, to the output.

  Args:
    seed: of its training.
    toy: its sizes.
    training: how.
    num: of pairs.
  """
  with tempfile.TemporaryDirectory() as folder:
    net, _ = circuits_toy.trained(toy, training, seed, pathlib.Path(folder))
  params = net.params
  pairs = circuits_toy.pairs(toy, num, seed + 1)
  before, match = looks(net, params, pairs)
  first, second = np.flatnonzero(before > 0.5), np.flatnonzero(match > 0.5)
  edges = {("embed", "blocks.0.attn.v_in", int(i)) for i in first}
  edges |= {
    (f"blocks.0.heads.{i}", "blocks.1.attn.k_in", int(j))
    for i in first
    for j in second
  }
  edges |= {(f"blocks.1.heads.{i}", "final_norm.in", 0) for i in second}
  return Known("induction", net, params, pairs, frozenset(edges))


def looks(
  net: sites.Network, params: Any, pairs: pairs_lib.Pairs
) -> tuple[np.ndarray, np.ndarray]:
  """How much heads look at the token before, and at what followed the match.

  Args:
    net: of two layers.
    params: its parameters.
    pairs: of `circuits_toy.pairs`.

  Returns:
    Two arrays `[H]`, of heads of layers 0 and 1: means over the clean prompts,
    of the first over positions from 1, too; the second from the last position.
  """
  names = [f"blocks.{i}.attn.pattern" for i in (0, 1)]
  run = jax.jit(net.apply, static_argnames="capture")
  out = run(params, input_ids=pairs.clean, capture=tuple(names)).activations
  one, two = (np.asarray(out[name], np.float64) for name in names)
  at = np.arange(1, one.shape[-1])
  before = one[:, :, at, at - 1].mean((0, 2))
  assert pairs.spans is not None
  answer = pairs.spans.names.index("answer")
  followed = pairs.spans.owner == answer
  return before, (two[:, :, -1] * followed[:, None]).sum(-1).mean(0)


def _zeros(net):
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  return jax.tree.map(lambda x: np.zeros(x.shape), shapes)
