"""CMAP: where the gain of fine-tuning sits, by one model's heads in another.

Two sets of parameters of one architecture run the same prompts, and what
members give in the tuned one is put into the base, in one of the forms of
`swaps` (Prakash et al. 2024, arXiv 2402.14811, section 5).

The authors' code gives each example's position to all of a batch; here each
has its own.

Two identities are checked in every run: equal parameters change nothing, and
all that writers write, with the final norm and the output matrix of the tuned
model, is the tuned model.

Shapes: G groups, N pairs, B of a batch, P positions, V tokens, M members.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import metrics, paths, runs, scored, swaps
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

TOLERANCE = 1e-3  # Of an identity, in the largest logit.
_LAST = ("final_norm", "head", "tokens")  # Parameters behind all writers.


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped:
  """What groups of the tuned model do in the base.

  Attributes:
    names: G of groups, with their forms.
    values: float64 `[G, N]`, the metric.
    right: bool `[G, N]`, whether the likeliest token is right.
    base: float64 `[2, N]`, metric and rightness of the base.
    tuned: float64 `[2, N]`, of the tuned model.
    same: how far the base in itself is from the base, in logits.
    whole: how far everything of the tuned model is from it, in logits.
  """

  names: tuple[str, ...]
  values: np.ndarray
  right: np.ndarray
  base: np.ndarray
  tuned: np.ndarray
  same: float
  whole: float

  def share(self, of: str = "right") -> np.ndarray:
    """Of the gain of fine-tuning, what each group brings: float64 `[G]`.

    Raises:
      ValueError: no gain, or another `of` than "right" and "metric".
    """
    if of not in ("right", "metric"):
      raise ValueError(f"of={of!r}: choose from right, metric.")
    row = int(of == "right")
    gain = self.tuned[row].mean() - self.base[row].mean()
    if not gain:
      raise ValueError("Base and tuned model do the same: there is no gain.")
    values = self.right if row else self.values
    return (values.mean(axis=1) - self.base[row].mean()) / gain

  def rows(self, seed: int = 0) -> list[dict[str, Any]]:
    """For a table: accuracy with its interval of 95 %, metric."""
    names = ("base", *self.names, "tuned")
    right = np.stack([self.base[1], *self.right, self.tuned[1]])
    values = np.stack([self.base[0], *self.values, self.tuned[0]])
    low, high = scored.bootstrap(right.T, seed=seed)
    return [
      {
        "group": name,
        "accuracy": float(right[i].mean()),
        "low": float(low[i]),
        "high": float(high[i]),
        "metric": float(values[i].mean()),
      }
      for i, name in enumerate(names)
    ]

  def __str__(self) -> str:
    lines = [
      f"identities: base in itself to {self.same:.1e}, all of the tuned model "
      f"to {self.whole:.1e} logits",
      "accuracy  95 %             metric  group",
    ]
    lines += [
      f"{row['accuracy']:8.3f}  {row['low']:.3f}..{row['high']:.3f} "
      f"{row['metric']:10.4g}  {row['group']}"
      for row in self.rows()
    ]
    return "\n".join(lines)


def check(net: sites.Network, base: Any, tuned: Any) -> None:
  """Refuses parameters of two architectures.

  Raises:
    ValueError: naming a parameter that one of them lacks, or of two shapes.
  """
  shapes = [
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    for params in (jax.eval_shape(net.init, jax.random.key(0)), base, tuned)
  ]
  for which, own in (("base", shapes[1]), ("tuned model", shapes[2])):
    for name in sorted({*own} | {*shapes[0]}):
      a, b = shapes[0].get(name), own.get(name)
      if a != b:
        raise ValueError(
          f"The {which} is of another architecture: its {name} is "
          f"{b or 'missing'}, the network's is {a or 'missing'}."
        )


def run(
  net: sites.Network,
  base: Any,
  tuned: Any,
  pairs: pairs_lib.Pairs,
  groups: Mapping[str, Sequence[swaps.Member]],
  metric: metrics.Metric,
  *,
  forms: Sequence[str] = ("out",),
  size: int | None = None,
  at_once: int | None = None,
  tolerance: float = TOLERANCE,
) -> Mapped:
  """Puts every group of the tuned model into the base, in every form.

  Args:
    net: the network that both sets of parameters are of.
    base: parameters of the model that is run.
    tuned: those of the model that it is given parts of.
    pairs: N; their clean prompts and right answers.
    groups: by name, members at places that all pairs have.
    metric: one example's logits to a number, see `metrics`.
    forms: what of a head is put in, some of `swaps.FORMS`.
    size: pairs of a batch; `runs.batch_size` by default.
    at_once: groups computed side by side; `many.at_once` by default.
    tolerance: of the identities, in the largest logit.

  Raises:
    ValueError: no group or form, another form, parameters of two
      architectures, MLPs with another form than "out"; as `swaps.Layout`; NaN.
    RuntimeError: an identity that does not hold.
  """
  if not groups or not forms:
    raise ValueError(f"Name groups, and forms of {', '.join(swaps.FORMS)}.")
  check(net, base, tuned)
  graph_lib.Graph.of(net)  # Refuses one without a stream, and says why.
  every = list(dict.fromkeys(m for group in groups.values() for m in group))
  taken = np.array(
    [[m in {*group} for m in every] for group in groups.values()], bool
  )
  judges = [
    swaps.Judge(
      net, base, pairs, every, metric,
      other=tuned, form=form, size=size, at_once=at_once,
    )
    for form in forms
  ]  # fmt: skip
  values, right = (np.concatenate(x) for x in zip(*(j(~taken) for j in judges)))
  model, layout, ends, off = sites.Model(net), judges[0].layout, [], []
  for batch, where in judges[0].batches:
    end, wrong = _ends(model, metric, layout, base, tuned, batch, where)
    ends.append(runs.real_rows(batch, end))
    off.append(np.asarray(wrong))
  both = np.concatenate(ends).astype(np.float64).T
  same, whole, largest = np.stack(off).max(axis=0)
  if not max(same, whole) <= tolerance * largest:
    raise RuntimeError(
      f"The base in itself is off by {same:.1e} logits, all of the tuned model "
      f"by {whole:.1e}; {tolerance * largest:.1e} are allowed."
    )
  return Mapped(
    tuple(
      name if form == "out" and len(forms) == 1 else f"{name}, {form}"
      for form in forms for name in groups
    ),
    values, right, both[:2], both[2:], float(same), float(whole),
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("model", "metric", "layout"))
def _ends(model, metric, layout, base, tuned, batch, where):
  """Both models `[B, 4]`; how far the identities are off, the largest logit."""
  chex.assert_rank(where, 3)
  net = model.net
  clean = runs.logits(net, base, batch)
  ends = [
    swaps.read(net, params, metric, batch, clean, None)
    for params in (base, tuned)
  ]
  own = swaps.captured(net, base, layout.touched(net), batch.clean)
  none = jnp.zeros(len(layout), clean.dtype)
  gates = layout.gates(net.config.num_blocks, none, where)
  same = runs.logits(net, base, batch, layout.edits(gates, own))
  names = ["embed", *itertools.chain(*paths.sums(net))]
  every = jnp.ones((1, 1, 1), bool)
  wrote = swaps.captured(net, tuned, names, batch.clean)
  edits = sites.Edits(replace={n: (every, x) for n, x in wrote.items()})
  mixed = {**base, **{n: tuned[n] for n in _LAST if n in tuned}}
  whole = runs.logits(net, mixed, batch, edits)
  want = runs.logits(net, tuned, batch)
  off = [jnp.abs(same - clean).max(), jnp.abs(whole - want).max()]
  largest = jnp.maximum(jnp.abs(clean).max(), jnp.abs(want).max())
  return jnp.concatenate(ends, axis=-1), jnp.stack([*off, largest])
