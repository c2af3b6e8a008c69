"""Words in several scripts."""

from bilevel.columns.words import length, words


def test_words_of_scripts_with_spaces():
    assert words("Don't PANIC, naïve ２nd") == ["don", "t", "panic", "naïve", "2nd"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("e\u0301te\u0301") == ["été"]


def test_runs_of_characters_of_scripts_without():
    assert words("很好ok") == ["很", "好", "很好", "ok"]
    assert {"ดีม", "มาก"} <= set(words("ดีมาก"))
    assert words("?!") == []


def test_the_length_of_a_text():
    assert length("one two-three") == 2
    assert length("很好喜欢") == 2
