"""A plain causal language model in NumPy, float64, from a checkpoint's keys.

One text at a time, one head at a time, one query at a time: slow, and as close
to the published definitions as can be. `edit(site, x)` sees activations by the
names of `spex_jax.models`, without the batch axis.
"""

import math

import numpy as np

from tests.models import checkpoints

_erf = np.vectorize(math.erf)


def _rms(x, weight, eps):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight + bias


def _gelu_new(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


_ACT = {
  "silu": lambda x: x / (1 + np.exp(-x)),
  "gelu": lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))),
  "gelu_new": _gelu_new,
  "gelu_pytorch_tanh": _gelu_new,
}


def _angles(width, theta, scaling):
  found = []
  for i in range(0, width, 2):
    f = theta ** (-i / width)
    if scaling.get("rope_type") == "linear":
      f /= scaling["factor"]
    if scaling.get("rope_type") == "llama3":
      length = 2 * np.pi / f
      old = scaling["original_max_position_embeddings"]
      low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
      if length > old / low:
        f /= scaling["factor"]
      elif length >= old / high:
        kept = (old / length - low) / (high - low)
        f = (1 - kept) * f / scaling["factor"] + kept * f
    found.append(f)
  return np.array(found)


def rotate(head, position, angles):
  """One head's vector, rotated pair by pair as complex numbers."""
  half = len(angles)
  pairs = (head[:half] + 1j * head[half : 2 * half]) * np.exp(
    1j * position * angles
  )
  return np.concatenate([pairs.real, pairs.imag, head[2 * half :]])


def attend(q, k, v, scale, window=None, cap=None):
  """One head: q, k, v `[P, h]` to `[P, h]`, query by query."""
  out = []
  for i in range(len(q)):
    first = 0 if window is None else max(0, i - window + 1)
    scores = k[first : i + 1] @ q[i] * scale
    if cap:
      scores = cap * np.tanh(scores / cap)
    weights = np.exp(scores - scores.max())
    out.append(weights / weights.sum() @ v[first : i + 1])
  return np.array(out)


def _experts(settings, t, number, read, edit):
  """What the experts of a block give for `read` `[P, d]`, token by token."""
  found = checkpoints.expert_names(settings, number)
  at, num, _, names = found
  at = f"model.layers.{number}.{at}"
  site, act = f"blocks.{number}.mlp.", _ACT[settings["hidden_act"]]
  matrix = lambda e, which: t[f"{at}experts.{e}.{names[which]}.weight"]
  scores = edit(site + "router", read @ t[at + "gate.weight"].T)
  gates = np.zeros_like(scores)
  for p, row in enumerate(scores):
    shares = np.exp(row) / np.exp(row).sum()
    best = np.argsort(row)[-settings["num_experts_per_tok"] :]
    gates[p, best] = shares[best]
    if settings.get("norm_topk_prob", True):
      gates[p] /= gates[p].sum()
  gates = edit(site + "gates", gates)
  all_of = lambda one: np.stack([one(e) for e in range(num)], axis=1)
  pre = edit(site + "experts.pre", all_of(lambda e: read @ matrix(e, 0).T))
  neurons = act(pre) * all_of(lambda e: read @ matrix(e, 1).T)
  neurons = edit(site + "experts.neurons", neurons)
  each = all_of(lambda e: gates[:, [e]] * (neurons[:, e] @ matrix(e, 2).T))
  return edit(site + "experts", each).sum(1)


def llama(settings, tensors, ids, edit=lambda site, x: x):
  """Logits `[P, V]` of a relative of Llama, and its hidden states."""
  t = {key: np.asarray(x, np.float64) for key, x in tensors.items()}
  family, eps = settings["model_type"], settings["rms_norm_eps"]
  gemma = family == "gemma2"
  heads, kv = settings["num_attention_heads"], settings["num_key_value_heads"]
  h, act = settings["head_dim"], _ACT[settings["hidden_act"]]
  norm = lambda x, key: _rms(x, t[key + ".weight"] + (1 if gemma else 0), eps)
  angles = _angles(
    h, settings["rope_theta"], settings.get("rope_scaling") or {}
  )

  def mlp(at, site, read):
    if family == "phi3":
      gate, up = np.split(t[at + "mlp.gate_up_proj.weight"], 2)
    else:
      gate, up = (t[f"{at}mlp.{n}_proj.weight"] for n in ("gate", "up"))
    pre = edit(site + "mlp.pre", read @ gate.T)
    neurons = edit(site + "mlp.neurons", act(pre) * (read @ up.T))
    return neurons @ t[at + "mlp.down_proj.weight"].T

  x = t["model.embed_tokens.weight"][ids]
  if gemma:
    x = x * np.sqrt(settings["hidden_size"])
  x = edit("embed", edit("embed.tokens", x))
  hidden = [x]
  for number in range(settings["num_hidden_layers"]):
    at, site = f"model.layers.{number}.", f"blocks.{number}."
    x = edit(site + "resid_pre", x)
    read = edit(site + "attn.in", norm(x, at + "input_layernorm"))

    def project(name, num, at=at, read=read):
      key = f"{at}self_attn.{name}_proj"
      if family == "phi3":
        q, k = heads * h, kv * h
        start = {"q": 0, "k": q, "v": q + k}[name]
        matrix = t[at + "self_attn.qkv_proj.weight"][start : start + num * h]
      else:
        matrix = t[key + ".weight"]
      out = read @ matrix.T + t.get(key + ".bias", 0)
      out = out.reshape(len(read), num, h)
      if family.startswith("qwen3") and name != "v":
        out = _rms(out, t[f"{at}self_attn.{name}_norm.weight"], eps)
      return out

    q = edit(site + "attn.q", project("q", heads))
    k = edit(site + "attn.k", project("k", kv))
    v = edit(site + "attn.v", project("v", kv))
    for p in range(len(ids)):
      q[p] = [rotate(head, p, angles) for head in q[p]]
      k[p] = [rotate(head, p, angles) for head in k[p]]
    q, k = edit(site + "attn.q_rot", q), edit(site + "attn.k_rot", k)
    sliding = settings.get("layer_types", ["sliding_attention"] * 9)[number]
    window = settings.get("sliding_window")
    scale = settings.get("query_pre_attn_scalar", h) ** -0.5
    z = np.stack(
      [
        attend(
          q[:, i], k[:, i * kv // heads], v[:, i * kv // heads], scale,
          window if sliding == "sliding_attention" else None,
          settings.get("attn_logit_softcapping"),
        )
        for i in range(heads)
      ],
      axis=1,
    )  # fmt: skip
    z = edit(site + "attn.z", z)
    matrix = t[at + "self_attn.o_proj.weight"].T.reshape(heads, h, -1)
    each = edit(site + "attn.heads", np.einsum("pnh,nhd->pnd", z, matrix))
    bias = t.get(at + "self_attn.o_proj.bias", 0)
    added = edit(site + "attn.out", each.sum(1) + bias)
    before_mlp = "post_attention_layernorm"
    if gemma:
      added = norm(added, at + before_mlp)
      added = edit(site + "attn.post_norm", added)
      before_mlp = "pre_feedforward_layernorm"
    x = edit(site + "resid_mid", x + added)
    read = edit(site + "mlp.in", norm(x, at + before_mlp))
    if checkpoints.expert_names(settings, number):
      out = _experts(settings, t, number, read, edit)
    else:
      out = mlp(at, site, read)
    out = edit(site + "mlp.out", out)
    if gemma:
      out = norm(out, at + "post_feedforward_layernorm")
      out = edit(site + "mlp.post_norm", out)
    x = edit(site + "resid_post", x + out)
    hidden.append(x)
  x = edit("final_norm", norm(edit("final_norm.in", x), "model.norm"))
  head = "model.embed_tokens" if settings["tie_word_embeddings"] else "lm_head"
  logits = x @ t[head + ".weight"].T
  cap = settings.get("final_logit_softcapping")
  logits = cap * np.tanh(logits / cap) if cap else logits
  return edit("logits", logits), [*hidden[:-1], x]


def gpt2(settings, tensors, ids):
  """Logits `[P, V]` of a GPT-2."""
  t = {key: np.asarray(x, np.float64) for key, x in tensors.items()}
  d, heads = settings["n_embd"], settings["n_head"]
  line = lambda x, key: x @ t[key + ".weight"] + t[key + ".bias"]
  norm = lambda x, key: layer_norm(
    x, t[key + ".weight"], t[key + ".bias"], 1e-5
  )
  x = t["transformer.wte.weight"][ids]
  x = x + t["transformer.wpe.weight"][: len(ids)]
  for number in range(settings["n_layer"]):
    at = f"transformer.h.{number}."
    qkv = line(norm(x, at + "ln_1"), at + "attn.c_attn")
    q, k, v = (m.reshape(-1, heads, d // heads) for m in np.split(qkv, 3, 1))
    z = [
      attend(q[:, i], k[:, i], v[:, i], (d // heads) ** -0.5)
      for i in range(heads)
    ]
    x = x + line(np.concatenate(z, 1), at + "attn.c_proj")
    inner = _gelu_new(line(norm(x, at + "ln_2"), at + "mlp.c_fc"))
    x = x + line(inner, at + "mlp.c_proj")
  return norm(x, "transformer.ln_f") @ t["transformer.wte.weight"].T


def gpt_neox(settings, tensors, ids):
  """Logits `[P, V]` of a GPT-NeoX."""
  t = {key: np.asarray(x, np.float64) for key, x in tensors.items()}
  d, heads = settings["hidden_size"], settings["num_attention_heads"]
  h = d // heads
  line = lambda x, key: x @ t[key + ".weight"].T + t[key + ".bias"]
  norm = lambda x, key: layer_norm(
    x, t[key + ".weight"], t[key + ".bias"], 1e-5
  )
  width = int(h * settings["rotary_pct"])
  angles = _angles(width, settings["rotary_emb_base"], {})
  x = t["gpt_neox.embed_in.weight"][ids]
  for number in range(settings["num_hidden_layers"]):
    at = f"gpt_neox.layers.{number}."
    qkv = line(
      norm(x, at + "input_layernorm"), at + "attention.query_key_value"
    )
    qkv = qkv.reshape(len(ids), heads, 3, h)
    z = []
    for i in range(heads):
      q, k = (
        np.array([rotate(v, p, angles) for p, v in enumerate(qkv[:, i, j])])
        for j in (0, 1)
      )
      z.append(attend(q, k, qkv[:, i, 2], h**-0.5))
    added = line(np.concatenate(z, 1), at + "attention.dense")
    read = x if settings.get("use_parallel_residual", True) else x + added
    read = norm(read, at + "post_attention_layernorm")
    inner = _ACT["gelu"](line(read, at + "mlp.dense_h_to_4h"))
    x = x + added + line(inner, at + "mlp.dense_4h_to_h")
  x = norm(x, "gpt_neox.final_layer_norm")
  return x @ t["embed_out.weight"].T


FORWARD = {"gpt2": gpt2, "gpt_neox": gpt_neox}


def logits(settings, tensors, ids):
  """Logits `[P, V]` of any of these families."""
  known = FORWARD.get(settings["model_type"])
  if known:
    return known(settings, tensors, ids)
  return llama(settings, tensors, ids)[0]
