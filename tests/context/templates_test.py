"""Templates, chat templates and texts: tokens once, spans, what is refused."""

import functools

import numpy as np
import pytest

from spex_jax import context
from spex_jax.context import templates
from spex_jax.models import hub, tokens
from tests import tokenizers_small
from tests.models import checkpoints

_CHAT = (
  "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}\n"
  "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@functools.cache
def _tokenizer():
  made = tokenizers_small.gpt_like()
  made.chat_template = _CHAT
  return made


@pytest.fixture(scope="module")
def net(tmp_path_factory):
  backend = tokenizers_small.byte_level()
  size = backend.get_vocab_size()
  settings = {**checkpoints.GPT2, "vocab_size": size, "n_positions": 64}
  folder = tmp_path_factory.mktemp("texts") / "model"
  checkpoints.make(folder, settings)
  names = {"bos_token": "<|end|>", "eos_token": "<|end|>"}
  tokenizers_small.save(backend, folder, names, **settings)
  return hub.load(folder)


def test_the_run_without_context_has_the_same_tokens_but_its():
  encode = functools.partial(templates.encode, _tokenizer())
  given = encode("{context} {current}", "fun film", "the fun")
  ids = given.ids
  spell = lambda ids: _tokenizer().decode(ids)
  assert spell(ids[slice(*given.context)]) == "fun film"
  # The first token of what is left is " the", not "the".
  assert spell(ids[given.stays]) == " the fun"
  given = encode("Q: {current}\n\n{context}\n\nA:", "fun film", "the fun")
  assert spell(given.ids[slice(*given.context)]) == "fun film"
  assert spell(given.ids[given.stays]) == "Q: the fun\n\nA:"
  # Nothing stands behind the context: the space before it goes.
  given = encode("{current}\n{context}", "fun", "film")
  assert spell(given.ids[given.stays]) == "film"


def test_chat_templates_keep_their_places():
  made = templates.Template.of_chat(
    _tokenizer(), [{"role": "user", "content": " {context}\n{current} "}]
  )
  text, span = made.fill("{current}!", "b")
  # Braces of a text are text; what the template trims is trimmed.
  assert text == "<|user|>\n{current}!\nb\n<|assistant|>\n"
  assert text[slice(*span)] == "{current}!"
  with pytest.raises(ValueError, match="no chat_template"):
    templates.Template.of_chat(tokenizers_small.gpt_like())
  broken = tokens.Tokenizer(
    tokenizers_small.byte_level(), {}, None, "{{ raise_exception('no!') }}"
  )
  with pytest.raises(ValueError, match="fails: no!"):
    templates.Template.of_chat(broken)
  broken.chat_template = "{{ ''.__class__.__mro__ }}"
  with pytest.raises(ValueError, match="fails"):
    templates.Template.of_chat(broken)
  broken.chat_template = "nothing is shown"
  with pytest.raises(ValueError, match="0 times, the messages hold it 1"):
    templates.Template.of_chat(broken)


@pytest.mark.parametrize(
  ("template", "own", "other", "words"),
  [
    ("{current}", "a", "b", "{context} 0 times"),
    ("{context}", "a", "b", "{current} 0 times"),
    ("{context} {context} {current}", "a", "b", "{context} 2 times"),
    ("{context} {current}", " ", "b", "context is empty"),
    ("{context} {current}", "a<|end|>", "b", "special token '<|end|>'"),
    ("{context} {current}", "a", "b<|end|>", "special token '<|end|>'"),
  ],
)
def test_bad_texts(template, own, other, words):
  with pytest.raises(ValueError) as error:
    templates.encode(_tokenizer(), template, own, other)
  assert words in str(error.value)


def test_special_tokens_without_a_role_are_refused():
  backend = tokenizers_small.byte_level()
  backend.add_special_tokens(["<repo>"])
  backend.add_tokens(["<plain>"])
  unknown = backend.token_to_id("<|end|>")
  gpt = tokens.Tokenizer(backend, {"unk": unknown})
  for text in ("a<|end|>b", "a <repo>"):
    with pytest.raises(ValueError, match="spells the special token"):
      templates.refuse_special(gpt, "query", text)
  templates.refuse_special(gpt, "query", "a <plain> b")
  bert = tokens.Tokenizer(tokenizers_small.wordpiece(), {"unk": 1, "sep": 3})
  templates.refuse_special(bert, "query", "the xyzzy film")
  for text in ("the [UNK] film", "the [SEP]"):
    with pytest.raises(ValueError, match="spells the special token"):
      templates.refuse_special(bert, "query", text)


def test_runs_of_texts(net):
  made = context.Runs.of_text(
    net, context="fun film", current="the fun", response=" is fun"
  )
  spell = net.tokenizer.decode
  assert spell(made.context_ids) == "fun film"
  assert spell(made.with_context) == "fun film the fun is fun"
  assert spell(made.without_context) == " the fun is fun"
  assert spell(made.response) == " is fun"
  assert made.tokens is not None and len(made.tokens) == len(made.with_context)
  other = context.Runs.of_text(
    net, context="fun film", current="the fun", response=made.response,
    contextless="{current}", output_context=" film",
  )  # fmt: skip
  assert spell(other.without_context) == "the fun is fun"
  assert spell(other.output_context_ids) == " film"
  assert spell(other.with_context) == "fun film the fun film is fun"
  found = context.pecore(
    net, made, selector="top_k", selector_settings={"k": 1}
  )
  assert found.texts["output_current"] == " is fun"
  assert found.cues[0].token in made.response_tokens


def test_a_generated_response_is_the_greedy_one(net):
  made = context.Runs.of_text(
    net, context="fun film", current="the", max_new_tokens=3
  )
  ids = made.with_context
  logits = net.apply(net.params, input_ids=ids[None]).logits[0]
  at = len(ids) - len(made.response)
  want = np.asarray(logits[at - 1 : -1].argmax(-1))
  assert made.response.tolist() == want.tolist()


def test_bad_responses(net):
  given = dict(context="fun film", current="the fi")
  for response, words in (
    ("", "is empty"),
    ([], "no token"),
    ("lm is", "would join"),
    (" is<|end|>", "special token"),
    (" is" * 61, "tokens, and the model takes"),
  ):
    with pytest.raises(ValueError, match=words):
      context.Runs.of_text(net, response=response, **given)
