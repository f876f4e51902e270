"""CSV dialect: a table's first line -> its delimiter, a comma, or a semicolon where the comma is the decimal sign, or a tab.

Role: a table's first line -> its delimiter (RFC 4180 knows the comma alone).
"""

import re

_QUOTED = re.compile(r'"[^"]*"')


def delimiter_of(head: str) -> str:
    """What separates the column names in a table's first line; a comma where nothing does."""
    return max(",;\t", key=_QUOTED.sub("", head).count)
