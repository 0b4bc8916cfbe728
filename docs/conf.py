"""Settings of the documentation: `make docs` builds it, offline.

Stories are scripts that run as the pages are made (sphinx-gallery); the API is
read from docstrings, a page for each room.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import docstrings
from absl import logging

import spex_jax

logging.set_verbosity(logging.WARNING)

project = "spex_jax"
author = "the authors of spex_jax"
copyright = author
release = version = spex_jax.__version__

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx_gallery.gen_gallery",
  "docstrings",
  "formulas",
]
exclude_patterns = [".venv", "stories"]
html_theme = "furo"
html_title = "spex_jax"
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # Signatures have them; docstrings say the rest.
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Two rooms have an error of one name; docstrings name it as the code does.
suppress_warnings = ["ref.python"]

sphinx_gallery_conf = {
  "examples_dirs": "stories",
  "gallery_dirs": "gallery",
  "filename_pattern": r"\.py$",
  "within_subsection_order": "FileNameSortKey",
  "image_scrapers": ("pictures",),
  "capture_repr": ("_repr_html_", "__str__"),
  "abort_on_example_error": True,
  "download_all_examples": False,
  "show_memory": False,
  "write_computation_times": False,  # A page with scripts from elsewhere.
  "show_signature": False,
  "remove_config_comments": True,
  "plot_gallery": "True",
}


def setup(app):
  """Writes the pages of the API, which follow the folders of the library."""
  docstrings.write_pages(HERE / "api", pathlib.Path(spex_jax.__path__[0]))
