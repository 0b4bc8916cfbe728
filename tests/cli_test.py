"""The command: every configuration runs, bad input ends in one line.

Commands run in this process, as the console script calls them; one runs as a
process of its own.
"""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import spex_jax
from spex_jax import cli, configs
from spex_jax.fourier import sparse
from tests import command


@pytest.fixture
def functions(tmp_path, monkeypatch):
  """A directory with a module of value functions, made the current one."""
  (tmp_path / "my_functions.py").write_text(
    textwrap.dedent("""
      import numpy as np

      def value(masks):
        masks = np.asarray(masks)
        return 2.0 * masks[:, 0] + 3.0 * (masks[:, 1] & masks[:, 2])

      def traced(mask):
        return 2.0 * mask[0] + 3.0 * (mask[1] & mask[2])

      def broken(masks):
        raise KeyError("lost")

      def sometimes_nan(masks):
        values = value(masks)
        values[masks[:, 0]] = np.nan
        return values

      def none(masks):
        return None

      def ragged(masks):
        return [[0.0] * (i + 1) for i in range(len(masks))]

      def leaves(masks):
        raise SystemExit("bye")

      def parity(masks):
        return (masks.sum(axis=1) % 2).astype(float)

      def targets(masks):
        return np.stack([value(masks), value(masks) + 5.0], axis=1)

      def traced_targets(mask):
        import jax.numpy as jnp
        return jnp.stack([traced(mask), traced(mask) + 5.0])

      def text(masks):
        return ["a"] * len(masks)

      three = 3
    """)
  )
  (tmp_path / "broken_module.py").write_text("1 / 0\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  yield tmp_path
  for name in ("my_functions", "broken_module"):
    sys.modules.pop(name, None)


def _check_files(workdir, n):
  explanation = json.loads((workdir / "explanation.json").read_text())
  assert explanation["n"] == n and len(explanation["names"]) == n
  fourier = sparse.SparseFourier.load(workdir / "fourier.json")
  assert fourier.n == n and int(fourier.count) >= 1
  assert (workdir / "figure.png").read_bytes().startswith(b"\x89PNG")
  return explanation, fourier


def test_every_configuration_is_tested_here():
  # Those of `spex attribute data` in tests/jobs/attribute_test.py.
  assert list(configs.named("explain")) == [
    "callable",
    "cancer",
    "digits",
    "image",
    "lm",
    "sentiment",
    "tabular",
  ]


@pytest.mark.parametrize(
  ("extra", "words"),
  [
    ((), ("GradientBoosting", "decision value for")),
    # Few columns: all masks are asked, and nothing has to be fitted.
    (
      ("--config.model.kind=mlp", "--config.table=iris"),
      ("MLP 4-32-3", "logit("),
    ),
    (
      (
        "--config.model.kind=mlp",
        "--config.table=diabetes",
        "--config.budget=1024",
      ),
      ("MLP 10-32-1", "response"),
    ),
    (
      (
        "--config.model.kind=sklearn.ensemble:RandomForestClassifier",
        "--config.table=iris",
      ),
      ("RandomForest", "probability of"),
    ),
    (
      (
        "--config.model.kind=sklearn.ensemble:GradientBoostingRegressor",
        "--config.table=diabetes",
        "--config.budget=1024",
      ),
      ("response", "R2"),
    ),
    (
      (
        "--config.model.kind=sklearn.ensemble:RandomForestClassifier",
        "--config.model.arguments={'n_estimators': 5}",
        "--config.table=iris",
        "--config.baseline=resample",
        "--config.baseline_draws=2",
      ),
      ("RandomForest", "probability of", "2 training examples"),
    ),
  ],
)
def test_cancer(extra, words, tmp_path, capsys):
  out = command.done(
    capsys, "explain", "--config=cancer:quick", "--config.method=lasso",
    f"--workdir={tmp_path}", *extra,
  )  # fmt: skip
  assert all(word in out for word in words), out
  names = json.loads((tmp_path / "explanation.json").read_text())["names"]
  _check_files(tmp_path, len(names))


@pytest.mark.parametrize("compiled", [False, True])
def test_callable(functions, capsys, compiled):
  name = "traced" if compiled else "value"
  out = command.done(
    capsys, "explain", "--config=callable:quick",
    f"--config.function=my_functions:{name}", "--config.n=3",
    "--config.names=cat,dog,eel", "--config.units=nat",
    f"--config.compiled={compiled}", "--config.index=Moebius",
  )  # fmt: skip
  # The default place: runs/ under the current directory.
  _, fourier = _check_files(functions / "runs" / "callable-quick", 3)
  masks = np.arange(8)[:, None] >> np.arange(3) & 1
  expected = 2.0 * masks[:, 0] + 3.0 * masks[:, 1] * masks[:, 2]
  np.testing.assert_allclose(fourier(masks), expected, atol=1e-6)
  assert "{dog, eel}" in out and "+3" in out and "{cat}" in out


def test_a_configuration_file_of_ones_own(functions, capsys):
  (functions / "mine.py").write_text(
    textwrap.dedent("""
      import ml_collections

      def get_config(size="big"):
        return ml_collections.ConfigDict(dict(
          subject="callable", seed=1, function="my_functions:value",
          n=3 if size == "small" else 4, names="", units="x", compiled=False,
          budget=100, method="exact", batch_size=8, index="BII", order=2,
          top=3))
    """)
  )
  command.done(
    capsys, "explain", "--config", "mine.py:small", "--workdir", "there",
  )  # fmt: skip
  _check_files(functions / "there", 3)


@pytest.mark.slow
def test_installed_command_and_its_progress(functions):
  """A process of its own: exit code, no traceback, nothing on stderr."""
  code = "import sys; sys.argv[0] = 'spex'; from spex_jax import cli; cli.run()"
  arguments = [sys.executable, "-c", code, "explain", "--config=callable:quick"]
  environment = os.environ | {"PYTHONPATH": str(command.ROOT)}
  good = subprocess.run(
    [*arguments, "--config.function=my_functions:value", "--config.n=3"],
    capture_output=True,
    text=True,
    env=environment,
  )
  assert (good.returncode, good.stderr) == (0, "")
  assert "faithfulness" in good.stdout
  bad = subprocess.run(
    [*arguments, "--config.function=my_functions:gone", "--config.n=3"],
    capture_output=True,
    text=True,
    env=environment,
  )
  assert (bad.returncode, bad.stdout) == (1, "")
  assert bad.stderr == (
    "spex: error: function='my_functions:gone': 'my_functions' has no function "
    "'gone'.\n"
  )


_CALL = ("--config=callable:quick", "--config.n=3")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["explian"], "unknown command 'explian'; known are explain, attribute"),
    (["explain", "more"], "unexpected argument 'more'"),
    (["explain", "--confg=digits"], "no flag '--confg'. Did you mean --config"),
    (["explain", "--workdir", "--config=digits"], "--workdir needs a value"),
    (["explain", "--config=digit"], "no configuration 'digit': neither a file"),
    (["explain", "--config=gone.py"], "no configuration 'gone.py'"),
    (["explain", "--config="], "--config needs a name or a file"),
    (["explain", "--config"], "--config needs a value"),
    (["explain", "--config=digits:huge"], "must be 'full' or 'quick'"),
    (["explain", "--config=syntax.py"], "'syntax.py': SyntaxError"),
    (["explain", "--config=bare.py"], "configuration 'bare.py' lacks subject."),
    (["explain", "--config=typo.py"], "'typo.py' has no setting 'bugdet'. Did"),
    (["explain", "--config.bugdet=9"], "'bugdet'. Did you mean budget?"),
    (["explain", "--config.model.width=9"], "Did you mean model.widths?"),
    (["explain", "--config.budget=many"], "budget=many: must be an integer"),
    (["explain", "--config.budget", "1.5"], "budget=1.5: must be an integer"),
    (["explain", "--config.budget=-4"], "budget=-4: must be at least 1"),
    (["explain", "--config.index=FBI"], "Did you mean FBII?"),
    (["explain", "--config.subject=dogs"], "subject=dogs: choose from digits"),
    (["explain", "--config=dogs.py"], "subject='dogs': choose from callable"),
    (
      ["explain", "--config.image=9999"],
      "image=9999: scikit-learn's table of digits",
    ),
    (["explain", "--config.patch=9"], "patch side must lie in 1..8; got 9"),
    (["explain", "--workdir="], "--workdir=: is empty"),
    (["explain", *_CALL], "function='': give module:function"),
    (
      ["explain", "--config=callable", "--config.function=my_functions:value"],
      "n=0: give the number of players",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions.value"],
      "give module:function",
    ),
    (
      ["explain", *_CALL, "--config.function=absent_module:value"],
      "importing 'absent_module' failed with ModuleNotFoundError",
    ),
    (
      ["explain", *_CALL, "--config.function=broken_module:value"],
      "importing 'broken_module' failed with ZeroDivisionError",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:three"],
      "has no function 'three'",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:broken"],
      "my_functions:broken raised KeyError: 'lost'",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:sometimes_nan"],
      "NaN or infinity for",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:text"],
      "my_functions:text returns values of type <U1; it must return real",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:none"],
      "my_functions:none returns None; it must return real numbers",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:ragged"],
      "my_functions:ragged returns no array of numbers, but rows of diff",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:leaves"],
      "my_functions:leaves raised SystemExit: bye",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:value"]
      + ["--config.target=0"],
      "target=0: my_functions:value has a single target",
    ),
    (
      ["explain", "--config=cancer:quick", "--config.table=diabetes"],
      "GradientBoostingClassifier' is a classifier of scikit-learn, and "
      "diabetes has a response: choose a regressor, as --config.model.kind=",
    ),
    (
      ["explain", "--config=cancer", "--config.model.kind=sklearn.svm:SVR"],
      "is a regressor of scikit-learn, and breast_cancer has classes",
    ),
    (
      ["explain", "--config=cancer"]
      + ["--config.model.kind=sklearn.cluster:KMeans"],
      "is a clusterer of scikit-learn, and breast_cancer has classes",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:value"]
      + ["--config.names=a,b"],
      "names='a,b' are 2 for n=3",
    ),
    (
      ["explain", *_CALL, "--config.function=my_functions:value"]
      + ["--config.compiled=true"],
      "compiled=True needs JAX to trace it",
    ),
    (
      ["explain", "--config=cancer", "--config.table=titanic"],
      "Unknown table 'titanic'",
    ),
    (
      ["explain", "--config=cancer", "--config.model.kind=sklearn.svm:Gone"],
      "model.kind='sklearn.svm:Gone' is neither",
    ),
    (
      ["explain", "--config=cancer", "--config.model.kind=collections:Counter"]
      + ["--config.model.arguments={}"],
      "has no `fit` and `predict`",
    ),
    (
      ["explain", "--config=cancer", "--config.model.kind=sklearn.svm:SVC"]
      + ["--config.model.arguments={'max_depth': 3}"],
      "model.arguments do not fit sklearn.svm:SVC",
    ),
  ],
)
def test_bad_input_is_one_line(functions, capsys, arguments, message):
  (functions / "syntax.py").write_text("def get_config(:")
  for name, given in (
    ("bare", {"budget": 3}),
    ("typo", {"subject": "digits", "bugdet": 3}),
    ("dogs", {"subject": "dogs"}),
  ):
    (functions / f"{name}.py").write_text(
      "import ml_collections\n"
      f"def get_config(): return ml_collections.ConfigDict({given})"
    )
  code, out, err = command.run(capsys, *arguments)
  assert (code, out) == (1, "") or "asked" in out, out
  assert code == 1
  assert err.startswith("spex: error: ") and err.count("\n") == 1, err
  assert "Traceback" not in err and message in err, err


def test_an_unwritable_workdir_is_one_line(functions, capsys):
  (functions / "file").write_text("")
  for workdir in ("file", "file/below", "/proc/none"):
    code, out, err = command.run(
      capsys,
      "explain",
      *_CALL,
      "--config.function=my_functions:value",
      f"--workdir={workdir}",
    )
    assert (code, out) == (1, "")
    assert err.startswith(f"spex: error: workdir {workdir} cannot be written: ")
    assert err.count("\n") == 1 and "Errno" not in err, err


def test_debug_shows_the_traceback(capsys):
  with pytest.raises(ValueError, match="budget=0: must be"):
    cli.main(["explain", "--config.budget=0", "--debug"])


def test_help(capsys):
  for arguments in ([], ["--help"], ["help"]):
    out = command.done(capsys, *arguments)
    assert "explain" in out and "--workdir" in out
  out = command.done(capsys, "explain", "--help")
  for name in list(configs.named("explain")):
    assert f"\n  {name}\n" in out
  assert "\n    budget=4000 " in out and "runs/NAME" in out
  assert max(map(len, out.splitlines())) <= 80
  _, out, _ = command.run(capsys, "explain", "--config=tabular:quick", "--help")
  assert out.startswith("\n  tabular:quick\n    ") and "digits" not in out
  wrong = command.refused(capsys, "explain", "--help", "--config=x")
  assert "no configuration 'x'" in wrong


def test_version(capsys):
  code, out, err = command.run(capsys, "--version")
  assert (code, err) == (0, "") and out == f"spex {spex_jax.__version__}\n"


def test_an_unusable_index_is_refused_before_any_work(tmp_path, capsys):
  for index, order in (("SV", 3), ("BV", 3)):
    code, out, err = command.run(
      capsys,
      "explain",
      f"--config.index={index}",
      f"--config.order={order}",
      f"--workdir={tmp_path / 'w'}",
    )
    assert (code, out) == (1, "") and f"{index} has order 1 only" in err
    assert not (tmp_path / "w").exists()


def test_the_answer_is_kept_when_what_follows_fails(
  functions, capsys, monkeypatch
):
  def fail(*args, **kwargs):
    raise ValueError("too many subsets")

  monkeypatch.setattr(spex_jax.Explanation, "interactions", fail)
  code, _, err = command.run(
    capsys, "explain", *_CALL, "--config.function=my_functions:value"
  )
  assert (code, err) == (1, "spex: error: too many subsets\n")
  workdir = functions / "runs" / "callable-quick"
  assert sparse.SparseFourier.load(workdir / "fourier.json").n == 3
  assert spex_jax.Explanation.load(workdir / "explanation.json").names


@pytest.mark.parametrize("compiled", [False, True])
def test_one_of_several_targets(functions, capsys, compiled):
  name = "traced_targets" if compiled else "targets"
  arguments = [
    "explain",
    *_CALL,
    f"--config.function=my_functions:{name}",
    f"--config.compiled={compiled}",
  ]
  code, _, err = command.run(capsys, *arguments)
  assert code == 1 and err == (
    f"spex: error: my_functions:{name} returns 2 targets; choose one by "
    "--config.target=t, or use spex.explain.\n"
  )
  code, _, err = command.run(capsys, *arguments, "--config.target=2")
  assert code == 1 and "target=2: " in err and "targets 0 to 1" in err
  code, out, err = command.run(capsys, *arguments, "--config.target=1")
  assert (code, err) == (0, "") and ", target 1" in out
  _, fourier = _check_files(functions / "runs" / "callable-quick", 3)
  assert fourier(np.array([[True, False, False]]))[0] == pytest.approx(7.0)


def test_an_answer_that_predicts_nothing_comes_with_a_warning(
  functions, capsys
):
  out = command.done(
    capsys, "explain", "--config=callable:quick", "--config.n=30",
    "--config.method=lasso", "--config.function=my_functions:parity",
  )  # fmt: skip
  assert "\nwarning " in out and "do not rely on them" in out


def test_a_reader_that_leaves_is_no_error(functions):
  code = "import sys; from spex_jax import cli; sys.argv[0] = 'x'; cli.run()"
  arguments = [sys.executable, "-c", code, "explain", "--config=callable:quick"]
  process = subprocess.Popen(
    [*arguments, "--config.function=my_functions:value", "--config.n=3"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": str(command.ROOT)},
  )
  assert process.stdout and process.stderr
  process.stdout.close()  # Before anything was printed.
  assert process.stderr.read() == b""
  assert process.wait() == 1
  process.stderr.close()


def test_a_setting_given_as_a_flag_is_told_its_name(capsys):
  line = command.refused(capsys, "explain", "--budget=100")
  assert "--config.budget=100" in line
