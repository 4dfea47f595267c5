from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrswitch.text import error_rates, normalise, words

HAN = "零一二三四五六七八九"
ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
digits = st.text("0123456789", min_size=1, max_size=12)


@settings(deadline=None)
@given(digits, st.integers(1, 11))
def test_a_digit_string_is_the_same_in_every_writing(number: str, cut: int) -> None:
    han = "".join(HAN[int(digit)] for digit in number)
    english = " ".join(ENGLISH[int(digit)] for digit in number)
    for writing in (
        number,
        number[:cut] + " " + number[cut:],
        number[:cut] + "-" + number[cut:],
        han,
        han + "。",
        han[:cut] + "，" + han[cut:],
        " ".join(han),
        english,
        english.title() + ".",
        english.upper(),
        english.replace(" ", ", "),
        number.translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    ):
        assert normalise(writing) == number, writing
    assert words(number) == [number]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("我的电话是零九零零零七三三三一。", "我的電話是 0900073331"),
        ("三百二十五块", "325塊"),
        ("三萬五千", "35000"),
        ("一点五", "1.5"),
        ("It's twenty-one!", "its 21"),
        ("My number is ZERO nine zero", "my number is 090"),
        ("软件", "軟體"),
        ("百分之五", "5%"),
        ("Ｈｅｌｌｏ，ｗｏｒｌｄ", "hello world"),
        ("minus: \u22125", "minus -5"),
        ("❤\ufe0f ok", "ok"),
        ("नमस्\u200dते", "नमस्ते"),
    ],
)
def test_texts_that_say_the_same_are_the_same(text: str, same: str) -> None:
    assert normalise(text) == normalise(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0900", "0901"),
        ("一点五", "15"),
        ("3:30", "330"),
        ("好", "不好"),
        ("-5", "5"),
        ("कि", "का"),
        ("ที่", "ทำ"),
        ("ที", "ที่"),
        ("كَتَبَ", "كُتِبَ"),
        ("माता", "मत"),
    ],
)
def test_texts_that_differ_stay_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("word", ["हिन्दी", "ภาษาไทย", "كِتَاب", "i̇stanbul"])
def test_a_word_with_marks_is_one_word(word: str) -> None:
    assert words(normalise(f"{word}, {word}.")) == [word, word]


def test_words_are_numbers_ideographs_and_runs_of_letters() -> None:
    assert words(normalise("電話是 0900-073 call me")) == ["電", "話", "是", "0900073", "call", "me"]


def test_one_wrong_digit_is_one_wrong_word_and_one_wrong_character() -> None:
    rates = error_rates("0900073331", "0900073332")
    assert rates is not None
    assert rates.wer == 1
    assert rates.cer == pytest.approx(0.1)


def test_nothing_to_compare_with() -> None:
    assert error_rates("", "a") is None
    rates = error_rates("", "")
    assert rates is not None
    assert (rates.wer, rates.cer) == (0, 0)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_equals_itself(text: str) -> None:
    normalised = normalise(text)
    rates = error_rates(normalised, normalised)
    assert rates is not None
    assert (rates.wer, rates.cer) == (0, 0)


@given(
    st.lists(st.sampled_from("甲乙丙a1"), min_size=1, max_size=12),
    st.lists(st.sampled_from("甲乙丙a1"), max_size=12),
)
def test_rates_are_within_their_bounds(reference: list[str], hypothesis: list[str]) -> None:
    one, other = " ".join(reference), " ".join(hypothesis)
    rates = error_rates(one, other)
    assert rates is not None
    longest = max(len(words(one)), len(words(other)))
    assert 0 <= rates.wer <= longest / len(words(one))
    assert (rates.wer == 0) == (words(one) == words(other))
