"""What the built-in engine knows: exact rules in a small domain, in pure Python.

`answer.answer` turns a question into a `reply.Reply`; `prompt`, `fields`, `agent` and `render`
translate between that and what a DSPy adapter asks for. Nothing here imports DSPy, touches the
disk or the network.
"""
