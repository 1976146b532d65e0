"""A language model in this process, from a GGUF file, run by llama.cpp.

engine.py      the DSPy engine pair: plain data, asynchronous and synchronous
line.py        whoever comes first is served first: one model in memory, one reply at a time
generation.py  one reply: the turns that fit, the format as a grammar, chunks into text
runtime.py     the one importer of xllamacpp: loads a file, opens no port
memory.py      the one model in memory
shape.py       what a model file says of its size, and what memory is free
heard.py       what a reply consists of while it is made
"""
