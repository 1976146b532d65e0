"""Tables of questions with their exact answers, for every rule but arithmetic, and follow-ups."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_demo.lm.rules.answer import answer
from dspy_demo.lm.rules.capital_table import COUNTRIES
from dspy_demo.lm.rules.reply import Reply, Turn

NOW = datetime(2025, 3, 4, 12, 30, tzinfo=UTC)


TOKYO = "It is 21:30 in Asia/Tokyo on Tuesday, 4 March 2025 (UTC+09:00)."


def ask(*questions: str) -> Reply:
    *earlier, question = questions
    return answer(question, [Turn(text) for text in earlier], now=NOW)


UNITS = {
    "convert 5 miles to km": "5 miles = 8.04672 kilometres.",
    "5 km in miles": "5 kilometres is about 3.1069 miles (exactly 78125/25146).",
    "How many ounces are in 2.5 pounds?": "2.5 pounds = 40 ounces.",
    "5 feet 10 inches in cm": "5 feet 10 inches = 177.8 centimetres.",
    "-40 C to F": "-40 degrees Celsius = -40 degrees Fahrenheit.",
    "What is 100 degrees Celsius in kelvin?": "100 degrees Celsius = 373.15 kelvin.",
    "How many seconds are in a week?": "1 week = 604800 seconds.",
    "60 mph in km/h": "60 miles per hour = 96.56064 kilometres per hour.",
    "2 GiB in bytes": "2 gibibytes = 2147483648 bytes.",
    "3 hectares in m2": "3 hectares = 30000 square metres.",
    "2 litres in ml": "2 litres = 2000 millilitres.",
    "5 kg in metres": (
        "Kilograms measure mass and metres measure length, so one cannot be converted into the other."
    ),
    "-300 C in F": "-300 degrees Celsius does not exist: "
    "that is below absolute zero, which is -273.15 degrees Celsius.",
}
DATES = {
    "What day of the week was 2024-02-29?": "29 February 2024 was a Thursday.",
    "What weekday is July 4, 2026?": "4 July 2026 will be a Saturday.",
    "how many days between 2024-01-01 and 2024-12-25?": (
        "Between 1 January 2024 and 25 December 2024 there are 359 days."
    ),
    "How many days are there from 31 December 1999 to 1 March 2001?": (
        "Between 31 December 1999 and 1 March 2001 there are 426 days."
    ),
    "What is 90 days after March 3 2025?": "90 days after 3 March 2025 is Sunday, 1 June 2025.",
    "What is 1 month after 2024-01-31?": "1 month after 31 January 2024 is Thursday, 29 February 2024.",
    "Is 2100 a leap year?": "No, 2100 is not a leap year: 2100 is divisible by 100 but not by 400.",
    "Is 2024 a leap year?": "Yes, 2024 is a leap year: 2024 = 4 * 506, and it is not a century.",
    "What is today's date?": "Today is Tuesday, 4 March 2025.",
    "How many days are in February 2023?": "February 2023 has 28 days.",
    "how many days until Christmas?": "Between 4 March 2025 and 25 December 2025 there are 296 days.",
    "what was the date 3 weeks ago?": "3 weeks before 4 March 2025 is Tuesday, 11 February 2025.",
    "What day is 2025-02-30?": "There is no day 30 in February 2025: it has 28 days.",
    "2024-02-29": "29 February 2024 was a Thursday.",
    "What time is it?": "It is 12:30 here on Tuesday, 4 March 2025 (UTC).",
    "What time is it in Tokyo?": TOKYO,
    "What is 5000000 days after today?": "I only know the years 1 to 9999, and this leads beyond them.",
}
CAPITALS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "capital of the Netherlands": (
        "The capital of the Netherlands is Amsterdam; the government sits in The Hague."
    ),
    "What is the capital of South Africa?": (
        "South Africa has three capitals: Pretoria (executive), Cape Town (legislative) and "
        "Bloemfontein (judicial)."
    ),
    "Which country has the capital Canberra?": "Canberra is the capital of Australia.",
    "Ottawa is the capital of which country?": "Ottawa is the capital of Canada.",
    "Whose capital is Lima?": "Lima is the capital of Peru.",
    "Is Sydney the capital of Australia?": "No: the capital of Australia is Canberra.",
    "Is Paris the capital of France?": "Yes: the capital of France is Paris.",
    "What is the capital of Côte d’Ivoire?": (
        "The capital of Ivory Coast is Yamoussoukro; Abidjan is its largest city and where most of the "
        "government works."
    ),
    "What is the capital of Atlantis?": (
        'I know the capitals of all countries, but "atlantis" is not a country on my list.'
    ),
}
TEXTS = {
    "How many r's are in strawberry?": 'The letter "r" occurs 3 times in "strawberry".',
    "how many r in strawberry": 'The letter "r" occurs 3 times in "strawberry".',
    'How many times does "s" occur in Mississippi?': 'The letter "s" occurs 4 times in "Mississippi".',
    'How many vowels are in "education"?': '"education" has 5 vowels.',
    "How many words are in: the quick brown fox": '"the quick brown fox" has 4 words.',
    'Reverse "hello world"': '"hello world" reversed is "dlrow olleh".',
    "Spell hello backwards": '"hello" reversed is "olleh".',
    "Is racecar a palindrome?": 'Yes, "racecar" is a palindrome.',
    'Is "A man, a plan" a palindrome?': 'No, "A man, a plan" is not a palindrome.',
    "Sort these words: pear, apple, fig": "Sorted in alphabetical order: apple, fig, pear.",
    "Sort 10, 9, 2, 33": "Sorted from the smallest to the largest: 2, 9, 10, 33.",
    "Write hello in upper case": '"hello" in upper case is "HELLO".',
}


@pytest.mark.parametrize(("question", "sentence"), (UNITS | DATES | CAPITALS | TEXTS).items())
def test_exact_answers(question: str, sentence: str) -> None:
    reply = ask(question)
    assert reply.sentence == sentence
    assert reply.steps


@pytest.mark.parametrize(
    ("chat", "sentence"),
    [
        (("What is 12 * 4?", "and times 3?"), "48 * 3 = 144."),
        (("What is 12 * 4?", "and times 3?", "minus 44"), "144 - 44 = 100."),
        (("12 * 4", "thanks!", "double it"), "48 * 2 = 96."),
        (("12 * 4", "plus 10"), "48 + 10 = 58."),
        (("12 * 4", "what is 15% of that?"), "15% of 48 = 7.2."),
        (("12 * 4", "What is the square root of 81?"), "sqrt(81) = 9."),
        (("12 * 4", "What is 2 + 2?"), "2 + 2 = 4."),
        (("1 / 3", "times 3"), "1 / 3 * 3 = 1."),
        (("What is the capital of France?", "and of Spain?"), "The capital of Spain is Madrid."),
        (("What is the capital of France?", "what about Italy?"), "The capital of Italy is Rome."),
        (("5 km in m", "in miles?"), "5 kilometres is about 3.1069 miles (exactly 78125/25146)."),
        (("5 miles in km", "and 10?"), "10 miles = 16.09344 kilometres."),
        (('Write "Abc" in upper case', "and reversed?"), '"Abc" reversed is "cbA".'),
        (("how many r in strawberry", "and vowels?"), '"strawberry" has 2 vowels.'),
        (("how many r in strawberry", "and in raspberry?"), 'The letter "r" occurs 3 times in "raspberry".'),
        (("Is 2100 a leap year?", "and 1999?"), "No, 1999 is not a leap year: 1999 divided by 4 leaves 3."),
        (
            ("90 days after March 3 2025", "and 30 days later?"),
            "30 days after 1 June 2025 is Tuesday, 1 July 2025.",
        ),
        (("What time is it in Paris?", "and in Tokyo?"), TOKYO),
    ],
)
def test_follow_ups(chat: tuple[str, ...], sentence: str) -> None:
    assert ask(*chat).sentence == sentence


def test_a_follow_up_builds_on_what_another_model_said() -> None:
    earlier = [Turn("How many legs does a spider have?", "A spider has 8 legs.")]
    assert answer("times 3", earlier, now=NOW).sentence == "8 * 3 = 24."


def test_a_follow_up_to_nothing_says_so() -> None:
    assert "no earlier result" in ask("and times 3?").sentence


@pytest.mark.parametrize(
    "question", ["Hello!", "who are you?", "What can you do?", "Write me a poem", "asdf", ""]
)
def test_everything_else_says_what_this_is_and_how_to_connect_a_model(question: str) -> None:
    reply = ask(question)
    assert not reply.understood
    assert "not a language model" in reply.sentence
    assert "OPENAI_API_KEY" in reply.sentence
    assert "Ollama" in reply.sentence


@pytest.mark.parametrize(
    "question",
    [
        "What is the time complexity of quicksort?",
        "What time does the sun set in Paris?",
        "Write a poem in capital letters",
        "How many words are in the Bible?",
        "Reverse a linked list in Python",
        "order a pizza",
        "sort out my life",
        "How many people live in Spain?",
        "What is the capital gains tax rate?",
        "Convert 10 USD to EUR",
        "What date did World War II end?",
        "what is 2 + 2 in binary?",
        "If I have 3 apples and eat 2, how many are left?",
    ],
)
def test_questions_that_only_look_familiar_are_declined(question: str) -> None:
    assert not ask(question).understood


@pytest.mark.parametrize("country", [entry[0] for entry in COUNTRIES])
def test_every_capital_is_known_both_ways(country: str) -> None:
    there = ask(f"What is the capital of {country}?")
    assert there.topic == "capitals"
    back = ask(f"Which country has the capital {there.value}?")
    assert country in back.sentence


def test_the_list_of_countries_is_whole() -> None:
    assert len(COUNTRIES) == 193 + 2 + 2 + 4  # members, observers, Kosovo and Taiwan, parts of the UK


@settings(max_examples=200)
@given(st.text(max_size=80), st.text(max_size=30))
def test_no_text_breaks_it(first: str, second: str) -> None:
    reply = ask(first, second)
    assert reply.sentence.strip()
    assert reply.steps


def test_long_texts_are_declined_quickly() -> None:
    assert ask("how many " * 5000).sentence
    assert ask("a " * 900).sentence
    assert ask("what is " + "1 day " * 300).sentence
