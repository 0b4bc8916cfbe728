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
      z = self._attend(q, k, v, c.window(number))
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

  def _attend(self, q, k, v, window):
    c = self.config
    return reference.attend(q, k, v, c.score_scale, window, c.score_cap)

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


class Linear(Interpreter):
  """A network as rules of a backward pass see it: linear around one run.

  `around(ids)` runs it and fixes what the rules hold constant; each of n
  factors of a product that is not is replaced by its value there plus a share
  of its change. Then `run(ids, cut, ref)` of one edge changes by that edge's
  score, exactly: no derivative is taken. For networks without caps, and norms
  before their blocks.

  rule: "relp" (Jafari et al. 2025, arXiv 2508.21258) or "gim" (Edin et al.
  2025, arXiv 2505.17630).
  """

  def __init__(self, net, params, rule):
    super().__init__(net, params)
    self._relp, self._kept, self._next = rule == "relp", [], None

  def around(self, ids):
    """What writers write there, `{writer: [P, d]}`, and the logits `[V]`."""
    self._kept, self._next = [], None
    return super().run(ids)

  def run(self, ids, cut=None, ref=None):
    self._next = iter(self._kept)
    return super().run(ids, cut, ref)

  def _first(self, *values):
    """These values in the run that all is linear around."""
    if self._next is None:
      self._kept.append(values)
      return values
    return next(self._next)

  def _norm(self, p, kind, x):
    if kind == "layer":
      x = x - x.mean(-1, keepdims=True)
    size = np.sqrt((x**2).mean(-1, keepdims=True) + self.config.norm_eps)
    (size,) = self._first(size)
    return x / size * p["scale"] + (p["bias"] if kind == "layer" else 0)

  def _attend(self, q, k, v, window):
    assert window is None and self.config.score_cap is None
    q0, k0, v0 = self._first(q, k, v)
    found, scale = [], self.config.score_scale
    soft = lambda x: np.exp(x) / np.exp(x).sum()
    for i in range(len(q)):
      seen = slice(0, i + 1)
      scores = k0[seen] @ q0[i] * scale
      if self._relp:  # The pattern is constant.
        found.append(soft(scores) @ v[seen])
        continue
      # Values and pattern are two factors, queries and keys two of the second.
      change = k0[seen] @ (q - q0)[i] + (k - k0)[seen] @ q0[i]
      change *= scale / 4
      warm = soft(scores / 2)
      pattern = warm * (change - warm @ change)
      values = v0 + (v - v0) / 2
      found.append(soft(scores) @ values[seen] + pattern @ v0[seen])
    return np.array(found)

  def _mlp(self, p, x):
    dense = lambda name, x: x @ p[name]["kernel"] + p[name].get("bias", 0)
    if not self.config.gated:
      return dense("down", self._activated(dense("up", x)))
    gate, up = self._activated(dense("gate", x)), dense("up", x)
    gate0, up0 = self._first(gate, up)
    both = gate0 * up0 + ((gate - gate0) * up0 + gate0 * (up - up0)) / 2
    return dense("down", both)

  def _activated(self, x):
    (x0,) = self._first(x)
    name = self.config.activation
    value = _ACT[name](x0)
    if self._relp:
      return x * value / x0
    if name == "silu":
      s = 1 / (1 + np.exp(-x0))
      slope = s * (1 + x0 * (1 - s))
    else:
      assert name == "gelu_new"
      root = np.sqrt(2 / np.pi)
      t = np.tanh(root * (x0 + 0.044715 * x0**3))
      inner = root * (1 + 3 * 0.044715 * x0**2)
      slope = (1 + t) / 2 + x0 / 2 * (1 - t**2) * inner
    return value + slope * (x - x0)
