"""Labelled texts from CSV files."""

import pytest

from spex_jax.datasets import labelled_texts


def _file(tmp_path, content):
  path = tmp_path / "rows.csv"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def test_texts_and_labels(tmp_path):
  path = _file(
    tmp_path,
    'id,review,sentiment\n1,"""So, so."" she said",bad\n2,"""Fine.""",good\n'
    "3, plain ,bad\n",
  )
  data = labelled_texts.read(path)
  assert data.texts == ('So, so." she said', "Fine.", "plain")
  assert data.classes == ("bad", "good") and data.labels.tolist() == [0, 1, 0]
  assert data.num_examples == 3
  named = labelled_texts.read(path, "sentiment", "id")
  assert named.texts == ("bad", "good", "bad")
  assert named.classes == ("1", "2", "3")


@pytest.mark.parametrize(
  ("content", "columns", "message"),
  [
    ("a,label\nx,1\n", (), "no column text or review .* it has a, label. Name"),
    ("text,a\nx,1\n", (), "no column label or .* Name one by label_column"),
    ("text,label\nx,1\n", ("body",), "no column 'body'; it has text, label"),
    ("text,label\nx,1\n,2\n", (), "row 1 has an empty 'text'"),
    ("text,label\nx,1\ny\n", (), "row 1 has 1 cells; the header has 2"),
    ("text,label\nx,1\ny,1\n", (), r"'label' has \['1'\]"),
    ("", (), "it has none"),
    (b"text,label\n\xff,1\n", (), "no CSV of UTF-8 text"),
  ],
)
def test_files_that_are_refused(tmp_path, content, columns, message):
  with pytest.raises(ValueError, match=message):
    labelled_texts.read(_file(tmp_path, content), *columns)


def test_no_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="gone.csv is no file"):
    labelled_texts.read(tmp_path / "gone.csv")
