"""What the engine says about itself: in a greeting, when asked, and when it does not understand."""

from __future__ import annotations

import re

from dspy_demo.lm.rules.reply import Reply

_CONNECT = "choose a model in the sidebar, set an API key such as OPENAI_API_KEY, or start Ollama"
_DOMAIN = "arithmetic, units, dates, capitals and counting or changing text"

_GREETING = re.compile(
    r"^(?:hi|hello|hey|hallo|good (?:morning|afternoon|evening|day)|greetings|howdy|yo)\b[\s,!.]*"
    r"(?:there|you|everyone|again)?[\s!.?]*$"
)
_THANKS = re.compile(
    r"^(?:many )?(?:thanks|thank you|thx|cheers|great|nice|perfect|ok(?:ay)?|cool)\b.{0,25}$"
)
_FAREWELL = re.compile(r"^(?:bye|goodbye|see you|good night)\b.{0,20}$")
_IDENTITY = re.compile(
    r"\b(?:who|what) are you\b|\bwhat is your name\b|\bwhat(?:'s| is) this\b|\bare you (?:an? )?"
    r"(?:ai|llm|gpt|chatgpt|language model|robot|bot|human|real|model)\b|"
    r"\bwhich model\b|\bintroduce yourself\b"
)
_ABILITY = re.compile(
    r"\bwhat (?:can|could|do) you (?:do|know|answer)\b|\bhow can you help\b|^help\b|"
    r"\bwhat (?:can|should|may) i ask\b"
)


def answer_small_talk(question: str) -> Reply | None:
    """Greetings, thanks, and questions about the engine itself."""
    text = re.sub(r"\s+", " ", question.lower().replace("’", "'")).strip()
    if _GREETING.match(text):
        sentence = (
            f"Hello! I am a small rule-based engine, not a language model: I am exact in {_DOMAIN}; "
            f"for everything else {_CONNECT}."
        )
        return _say(sentence, "This is a greeting, so I greet back and say what I am.")
    if _IDENTITY.search(text):
        sentence = (
            f"I am a small rule-based engine, not a language model: I answer {_DOMAIN} exactly; "
            f"to talk with a language model, {_CONNECT}."
        )
        return _say(sentence, "The question is about me, so I say what I am.")
    if _ABILITY.search(text):
        sentence = (
            f"I can do {_DOMAIN}, and I follow up on what came before, but I am a small rule-based engine, "
            f"not a language model; for more, {_CONNECT}."
        )
        return _say(sentence, "The question is about what I can do, so I list it.")
    if _THANKS.match(text):
        return _say("You are welcome!", "This is a thank-you, so there is nothing to work out.")
    if _FAREWELL.match(text):
        return _say("Goodbye!", "This is a farewell, so there is nothing to work out.")
    return None


def decline() -> Reply:
    """The answer to everything that no rule understands."""
    return _say(
        f"I am a small rule-based engine, not a language model, so I can only answer {_DOMAIN}; "
        f"for this question, {_CONNECT}.",
        f"None of my rules ({_DOMAIN}) fits this question, so I do not guess.",
    )


def _say(sentence: str, step: str) -> Reply:
    return Reply(sentence, (step,), "talk")
