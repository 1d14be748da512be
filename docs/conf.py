"""The documentation site: ``make docs`` builds it into docs/_build/html.

Pages of the API, the command line, the configurations and the refusals are made from the code when the site is built;
`_ext/generate.py` does it.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src"), str(HERE.parent / "lab" / "src")]

import stepmask  # noqa: E402

project = "stepmask"
author = "the stepmask contributors"
copyright = author
version = release = stepmask.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generate"]
exclude_patterns = ["_build", "_ext", "_pages", "**/_*.md"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"

# A name in single backticks is a link where the name is documented, and code everywhere else.
default_role = "py:obj"
nitpicky = True
# Names of other packages have no pages here, and building needs no network to look them up. Types that the public
# packages do not list have none either.
nitpick_ignore_regex = [("py:obj", ".*"), ("py:.*", r"(?!stepmask\.).*"), ("py:class", r"stepmask\.\w+\..*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"stepmask {version}"
html_static_path = ["_static"]
html_extra_path = ["_pages"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
