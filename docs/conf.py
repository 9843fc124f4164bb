"""Sphinx's settings for the site: this folder's Markdown, the measurements, CHANGELOG.

python -m sphinx -W -c docs . build/site

Pages are read where they lie, so that a link leads to the same place here and in the repository.
"""

from keras_transfer import __version__

project = "keras_transfer"
author = "The keras_transfer authors"
copyright = "2026, The keras_transfer authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md", "benchmarks/results/*.md", "CHANGELOG.md", "CONTRIBUTING.md", "saved_models/*.md",
]  # fmt: skip
exclude_patterns = ["build", "dist", ".*", "venv", "runs", "studies", "**/site-packages"]
# The tables have no place in the navigation: the pages that explain them link to them.
suppress_warnings = ["toc.not_included"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
highlight_language = "text"
autodoc_member_order = "groupwise"
autodoc_typehints = "none"
# As a section of its own: our docstrings say what is returned in sentences, colons included.
napoleon_custom_sections = ["Returns"]

html_theme = "furo"
html_title = "keras_transfer"
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False
html_extra_path = ["home"]
