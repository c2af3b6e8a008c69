"""The words of a text, in scripts with and without spaces."""

import re
import unicodedata

# Han, kana, Thai, Lao, Burmese and Khmer: words are not separated.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
# Marks that Python's \w leaves out although they are parts of words: accents, Arabic and Indic vowels.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_RUN = re.compile(rf"[{_UNSPACED}]+|(?:(?![_{_UNSPACED}])[\w{_MARKS}])+")
_UNSPACED_ONE = re.compile(rf"[{_UNSPACED}]")
_LONGEST = 3  # characters


def words(text: str) -> list[str]:
    """The words in lower case; where words are not separated, all runs of one to three characters."""
    found = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if _UNSPACED_ONE.match(run):
            found += [run[i : i + size] for size in range(1, _LONGEST + 1) for i in range(len(run) - size + 1)]
        else:
            found.append(run)
    return found


def length(text: str) -> float:
    """The number of words between spaces; where words are not separated, two characters count as one."""
    return max(len(text.split()), len(_UNSPACED_ONE.findall(text)) / 2)
