"""A causal network as an OpenAI-compatible model on this machine.

`/v1/models`, `/v1/chat/completions` and `/v1/completions`, the latter with
log-probabilities of the prompt (`echo` and `logprobs`), which hosted endpoints
do not give. One choice a request, nothing streamed.

Shapes: prompts and replies are padded to powers of two, so that few programs
are compiled.
"""

import functools
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.agents import loopback
from spex_jax.models import generate, sites

_TOP = 20  # Alternatives at most.
_DEFAULT = 16  # Tokens, as OpenAI's completions.


class Model:
  """Answers requests by a network with parameters and a tokenizer."""

  def __init__(self, net: sites.Network, name: str):
    """Nothing is compiled yet.

    Args:
      net: a causal network that holds its `params` and `tokenizer`.
      name: the name by which clients ask for it.

    Raises:
      ValueError: no parameters or no tokenizer.
    """
    if net.params is None or net.tokenizer is None:
      raise ValueError("A model is served with parameters and a tokenizer.")
    self._net, self._tokenizer, self._name = net, net.tokenizer, name
    self._end = self._tokenizer.special.get("eos")

    @functools.partial(jax.jit, static_argnames=("count", "temperature"))
    def made(params, ids, mask, key, count, temperature):
      return generate.generate(
        net, params, ids, count, attention_mask=mask, temperature=temperature,
        key=key, end=self._end, logits=True,
      )  # fmt: skip

    @jax.jit
    def scored(params, ids, mask):
      out = net.apply(params, input_ids=ids, attention_mask=mask)
      return jax.nn.log_softmax(out.logits.astype(jnp.float32))

    self._made, self._scored = made, scored

  def routes(self) -> dict[str, loopback.Route]:
    """For `loopback.Server`."""
    return {
      "/v1/models": self.models,
      "/v1/chat/completions": self.chat,
      "/v1/completions": self.completion,
    }

  def models(self, body: Any) -> dict[str, Any]:
    """The one there is."""
    del body
    own = {"id": self._name, "object": "model", "created": 0,
           "owned_by": "local"}  # fmt: skip
    return {"object": "list", "data": [own]}

  def chat(self, body: Any) -> dict[str, Any]:
    """`/v1/chat/completions`.

    Raises:
      loopback.Refused: no messages, or settings that cannot be used.
    """
    body = self._checked(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
      raise loopback.Refused("messages: a list of {role, content} is needed.")
    text = self._tokenizer.chat([_plain(message) for message in messages])
    ids = self._tokenizer.encode(text, add_special=False).ids.tolist()
    top = body.get("top_logprobs", 0) if body.get("logprobs") else None
    asked = body.get("max_completion_tokens", body.get("max_tokens"))
    tokens, logs, finish = self._generate(ids, body, asked, 256)
    content = None
    if top is not None:
      content = [
        {
          **self._entry(token, row[token]),
          "top_logprobs": [
            self._entry(t, row[t]) for t in _strongest(row, top)
          ],
        }
        for token, row in zip(tokens, logs)
      ]  # fmt: skip
    text, finish = self._text(tokens, body, finish)
    choice = {
      "index": 0, "finish_reason": finish,
      "message": {"role": "assistant", "content": text},
      "logprobs": None if content is None else {"content": content},
    }  # fmt: skip
    return self._whole("chat.completion", choice, len(ids), len(tokens))

  def completion(self, body: Any) -> dict[str, Any]:
    """`/v1/completions`; the prompt is a text or token ids.

    Raises:
      loopback.Refused: no prompt of the two kinds, or settings that cannot be
        used.
    """
    body = self._checked(body)
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt:
      ids = self._tokenizer.encode(prompt).ids.tolist()
    elif isinstance(prompt, list) and prompt and all(
      isinstance(token, int) for token in prompt
    ):  # fmt: skip
      ids = [self._tokenizer.check(token) for token in prompt]
    else:
      raise loopback.Refused("prompt: one text, or one list of token ids.")
    top = body.get("logprobs")
    asked = body.get("max_tokens", _DEFAULT)
    tokens: list[int] = []
    logs: Any = ()
    finish = "length"
    if asked != 0:
      tokens, logs, finish = self._generate(ids, body, asked, _DEFAULT)
    text, finish = self._text(tokens, body, finish)
    shown, rows = tokens, [*logs]
    if body.get("echo"):
      own = self._score(ids) if top is not None else [None] * len(ids)
      shown, rows = [*ids, *tokens], [None, *own[: len(ids) - 1], *rows]
      text = self._tokenizer.decode(ids, skip_special=False) + text
    found = None
    if top is not None:
      found = self._columns(shown, rows, int(top))
    choice = {"index": 0, "text": text, "finish_reason": finish,
              "logprobs": found}  # fmt: skip
    return self._whole("text_completion", choice, len(ids), len(tokens))

  def _checked(self, body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
      raise loopback.Refused("A request is a JSON object.")
    if body.get("stream"):
      raise loopback.Refused("Nothing is streamed here: stream=false.")
    if body.get("n", 1) != 1:
      raise loopback.Refused("One choice a request: n=1.")
    if body.get("tools"):
      raise loopback.Refused("This model calls no tools.")
    for name in ("logprobs", "top_logprobs"):
      top = body.get(name)
      if isinstance(top, int) and not 0 <= top <= _TOP:
        raise loopback.Refused(f"{name}={top}: from 0 to {_TOP}.")
    return body

  def _generate(
    self, ids: list[int], body: Mapping, asked: Any, default: int
  ) -> tuple[list[int], np.ndarray, str]:
    """Tokens without the end, their log-probabilities, and why they end."""
    count = default if asked is None else asked
    room = (self._tokenizer.max_length or len(ids) + count) - len(ids)
    if not isinstance(count, int) or count < 1 or room < 1:
      raise loopback.Refused(
        f"max_tokens={count!r} behind {len(ids)} tokens: there is room for "
        f"{max(room, 0)}."
      )
    temperature = body.get("temperature")
    temperature = 1.0 if temperature is None else float(temperature)
    if not 0 <= temperature <= 2:
      raise loopback.Refused(f"temperature={temperature}: from 0 to 2.")
    count = min(count, room)
    size = min(_power(count), room)
    padded, mask = self._padded(ids, size)
    seed = body.get("seed")  # Without one every request draws anew.
    seed = secrets.randbits(32) if seed is None else int(seed) % (1 << 32)
    key = jax.random.key(seed)
    found = self._made(
      self._net.params, padded, mask, key, count=size, temperature=temperature
    )
    tokens = np.asarray(found.tokens[0])[:count].tolist()
    logs = np.asarray(jax.nn.log_softmax(found.logits[0].astype(jnp.float32)))
    finish = "length"
    if self._end in tokens:
      tokens, finish = tokens[: tokens.index(self._end)], "stop"
    return tokens, logs[: len(tokens)], finish

  def _padded(
    self, ids: list[int], more: int = 0
  ) -> tuple[np.ndarray, np.ndarray]:
    most = self._tokenizer.max_length or 1 << 30
    size = max(min(_power(len(ids)), most - more), len(ids))
    padded = np.zeros((1, size), np.int32)
    padded[0, : len(ids)] = ids
    return padded, (np.arange(size) < len(ids))[None].astype(np.int32)

  def _score(self, ids: list[int]) -> list[np.ndarray]:
    """Log-probabilities behind each token of a prompt, `[V]` each."""
    found = self._scored(self._net.params, *self._padded(ids))
    return list(np.asarray(found[0])[: len(ids)])

  def _text(
    self, tokens: list[int], body: Mapping, finish: str
  ) -> tuple[str, str]:
    text = self._tokenizer.decode(tokens) if tokens else ""
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
      if stop and stop in text:
        text, finish = text[: text.index(stop)], "stop"
    return text, finish

  def _entry(self, token: int, logprob: float) -> dict[str, Any]:
    text = self._tokenizer.decode([token], skip_special=False)
    return {"token": text, "logprob": float(logprob),
            "bytes": list(text.encode())}  # fmt: skip

  def _columns(
    self, tokens: list[int], rows: Sequence[Any], top: int
  ) -> dict[str, Any]:
    texts = [self._tokenizer.decode([t], skip_special=False) for t in tokens]
    offsets = np.cumsum([0, *map(len, texts)])[:-1].tolist()
    alternatives = []
    for row in rows:
      if row is None or not top:
        alternatives.append(None)
        continue
      alternatives.append({
        self._tokenizer.decode([t], skip_special=False): float(row[t])
        for t in _strongest(row, top)
      })  # fmt: skip
    return {
      "tokens": texts, "text_offset": offsets,
      "token_logprobs": [
        None if row is None else float(row[token])
        for token, row in zip(tokens, rows)
      ],
      "top_logprobs": alternatives if top else None,
    }  # fmt: skip

  def _whole(
    self, kind: str, choice: dict, asked: int, made: int
  ) -> dict[str, Any]:
    return {
      "id": f"local-{time.time_ns():x}", "object": kind,
      "created": int(time.time()), "model": self._name, "choices": [choice],
      "usage": {"prompt_tokens": asked, "completion_tokens": made,
                "total_tokens": asked + made},
    }  # fmt: skip


def _plain(message: Any) -> dict[str, str]:
  """A message whose content is one text; clients send it in parts, too."""
  role, content = (
    message.get(name) if isinstance(message, dict) else None
    for name in ("role", "content")
  )
  if isinstance(content, list):
    parts = [p.get("text") if isinstance(p, dict) else None for p in content]
    texts = [part for part in parts if isinstance(part, str)]
    content = "".join(texts) if len(texts) == len(parts) else None
  if not (isinstance(role, str) and isinstance(content, str)):
    raise loopback.Refused("A message is {role, content}, both texts.")
  return {"role": role, "content": content}


def _strongest(row: np.ndarray, count: int) -> list[int]:
  return np.argsort(-row, kind="stable")[:count].tolist()


def _power(count: int) -> int:
  """The next power of two, 16 at least."""
  return max(16, 1 << (count - 1).bit_length())
