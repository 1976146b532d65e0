"""The difference of two answers."""

from __future__ import annotations

import random
import re

import pytest

from dspy_demo.ui.word_diff import SAME, TOO_LONG, difference_html, word_changes


def test_the_changes_make_both_texts_again() -> None:
    words = ["four", "4", "is ", "the\n", "answer", ",", " "]
    pick = random.Random(7)
    for _ in range(200):
        left = "".join(pick.choices(words, k=pick.randint(0, 20)))
        right = "".join(pick.choices(words, k=pick.randint(0, 20)))
        changes = list(word_changes(left, right))
        assert "".join(text for change, text in changes if change != "right") == left
        assert "".join(text for change, text in changes if change != "left") == right


def test_a_change_is_marked_by_more_than_colour() -> None:
    text = difference_html({"Answer": ("It is four.", "It is 4.")})
    assert re.search(r"<del><span class=\"sr\"> only left: </span>four", text)
    assert re.search(r"<ins><span class=\"sr\"> only right: </span>4", text)
    assert "<h3>Answer</h3>" in text
    assert "only left</del> <ins>only right" in text


def test_the_same_is_said_in_words() -> None:
    text = difference_html({"Answer": ("Four. ", "Four.")})
    assert SAME in text
    assert "<ins>" not in text


@pytest.mark.parametrize("pair", [("", "Four."), ("Four.", " "), ("", "")])
def test_with_one_side_missing_there_is_nothing_to_compare(pair: tuple[str, str]) -> None:
    assert difference_html({"Answer": pair}) == ""


def test_what_is_too_long_does_not_hold_up_the_page() -> None:
    assert TOO_LONG in difference_html({"Answer": ("a b " * 3000, "b a " * 3000)})


def test_an_answer_is_never_markup() -> None:
    assert "<img" not in difference_html({"Answer": ("<img src=x>", "<img src=y>")})
