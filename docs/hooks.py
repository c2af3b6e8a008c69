"""The site works without a network: the build fails on a page that loads anything from elsewhere."""

import re

from mkdocs.exceptions import PluginError

LOADED = re.compile(
    r"""<(?:script|img|iframe|link\b[^>]*rel=["']?stylesheet)[^>]*?(?:src|href)=["']?(?:https?:)?//[^"' >]+"""
)


def on_post_page(output, page, **_):
    found = LOADED.search(output)
    if found:
        raise PluginError(f"{page.file.src_path}: it would load {found[0]}")
    return output
