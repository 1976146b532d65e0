"""The format of a reply as a grammar, from the output fields of a signature.

A small model often misses the format that DSPy's adapters ask for. A runtime that generates by a grammar
cannot miss it: `reply_grammar` writes one for the fields and their types, `asked_format` finds out which
signature and adapter a request comes from. A grammar guarantees the form of an answer, not its truth.
"""

from dspy_demo.lm.grammar.asked import AskedFormat, asked_format
from dspy_demo.lm.grammar.expression import Expression
from dspy_demo.lm.grammar.reply import reply_grammar

__all__ = ["AskedFormat", "Expression", "asked_format", "reply_grammar"]
