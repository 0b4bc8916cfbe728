"""The graph of a causal transformer, run node by node in NumPy, float64.

A second opinion, too slow to be of use and too simple to be wrong: nodes are a
dictionary, each computed from what its rows read, and a row reads the sum of
what writers before it write, of each in this run or in another. No masks, no
stream that accumulates, no batches; one head, one query at a time.
"""

import math

import numpy as np

from tests.models import reference

_erf = np.vectorize(math.erf)
_ACT = {
  "gelu": lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))),
  "gelu_new": lambda x: (
    x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  ),
  "silu": lambda x: x / (1 + np.exp(-x)),
  "relu": lambda x: np.maximum(x, 0),
}
_ACT["gelu_pytorch_tanh"] = _ACT["gelu_new"]


class Interpreter:
  """One network.

  `run(ids, cut, ref)` returns what each writer writes, `{writer: [P, d]}`, and
  the logits `[V]` behind the last token. `cut` has edges `(writer, reader,
  row)` and how far each is cut, a number or one of each position `[P, 1]`: at 1
  it carries `ref[writer]`. `hold` has neurons `(block, i)` and their values
  `[P]`; what all of them were is kept in `neurons`, `[P, F]` of each block.
  """

  def __init__(self, net, params):
    self.net, self.config = net, net.config
    leaf = lambda x: np.asarray(x, np.float64)
    walk = lambda x: (
      {k: walk(v) for k, v in x.items()} if hasattr(x, "items") else leaf(x)
    )
    self.params = walk(params)

  def run(self, ids, cut=None, ref=None, hold=None):
    """As the class says."""
    self._hold, self.neurons = hold or {}, []
    c, p, wrote = self.config, self.params, {}
    cut = cut or {}
    self._constant = np.zeros((len(ids), c.width))
    embed = p["tokens"]["table"][ids] * c.embed_scale
    if c.rotary is None:
      embed = embed + p["positions"]["table"][: len(ids)]
    wrote["embed"] = embed

    def read(reader, row):
      before = self.net.writers[: self.net.readers[reader][1]]
      total = self._constant
      for name in before:
        total = total + wrote[name]
        if (name, reader, row) in cut:
          degree = cut[name, reader, row]
          total = total + degree * (ref[name] - wrote[name])
      return total

    for number in range(c.num_blocks):
      self._block(number, read, wrote)
    x = self._norm(p["final_norm"], c.norm, read("final_norm.in", 0))
    matrix = p["tokens"]["table"].T if c.tied else p["head"]["kernel"]
    logits = x[-1] @ matrix
    if c.logit_cap is not None:
      logits = c.logit_cap * np.tanh(logits / c.logit_cap)
    return wrote, logits

  def _block(self, number, read, wrote):
    c, p = self.config, self.params[f"blocks_{number}"]
    site, share = f"blocks.{number}", c.num_heads // c.num_kv_heads
    heads, found = p["attn"], []
    kind = c.pre_norm or c.norm
    for head in range(c.num_heads):
      rows, seen = {"q": head, "k": head // share, "v": head // share}, {}
      for name, row in rows.items():
        x = read(f"{site}.attn.{name}_in", row)
        x = self._norm(p.get("norm1", {}), kind, x)
        seen[name] = self._project(heads[name], x, row)
      q, k, v = seen.values()
      if c.rotary is not None:
        width = c.rotary.width
        angles = c.rotary.theta ** (-np.arange(0, width, 2) / width)
        turned = lambda x, angles=angles: np.array(
          [reference.rotate(one, i, angles) for i, one in enumerate(x)]
        )
        q, k = turned(q), turned(k)
      z = reference.attend(
        q, k, v, c.score_scale, c.window(number), c.score_cap
      )
      found.append(z @ heads["out"]["kernel"][head])
    constant = self._constant + heads["out"].get("bias", 0)
    if c.order == "sandwich":
      # The norm's factor is that of the sum of all heads.
      total = sum(found)
      size = np.sqrt((total**2).mean(-1, keepdims=True) + c.norm_eps)
      scale = p["attn_post"]["scale"] + (c.norm == "rms_one")
      found = [one / size * scale for one in found]
    named = {f"{site}.heads.{i}": one for i, one in enumerate(found)}
    if c.order == "parallel":  # The MLP reads what heads of its block do.
      into = read(f"{site}.mlp.read", 0)
      wrote |= named
      self._constant = constant
    else:
      wrote |= named
      self._constant = constant
      into = read(f"{site}.mlp.read", 0)
    out = self._mlp(p["mlp"], self._norm(p.get("norm2", {}), kind, into))
    if c.order == "sandwich":
      out = self._norm(p["mlp_post"], c.norm, out)
    wrote[f"{site}.mlp"] = out

  def _mlp(self, p, x):
    act = _ACT[self.config.activation]
    dense = lambda name, x: x @ p[name]["kernel"] + p[name].get("bias", 0)
    up = dense("up", x)
    inner = act(dense("gate", x)) * up if self.config.gated else act(up)
    for (block, i), values in self._hold.items():
      if block == len(self.neurons):
        inner[:, i] = values
    self.neurons.append(inner.copy())
    return dense("down", inner)

  def _project(self, p, x, row):
    bias = p["bias"][row] if "bias" in p else 0
    return x @ p["kernel"][:, row] + bias

  def _norm(self, p, kind, x):
    if kind == "none":
      return x
    if kind == "layer":
      return reference.layer_norm(
        x, p["scale"], p["bias"], self.config.norm_eps
      )
    size = np.sqrt((x**2).mean(-1, keepdims=True) + self.config.norm_eps)
    return x / size * (p["scale"] + (kind == "rms_one"))
