"""Language models that run in this process, from GGUF files, by llama.cpp.

files.py     which model files there are, what a file says of itself, and which file a version needs
download.py  getting one from the hub: checked, resumed, cancelled
command.py   ``python app.py models``
runtime.py   the one importer of xllamacpp, and the queue in front of the one model in memory
engine.py    the DSPy engines: a request becomes a job, its events become DSPy's
grammar.py   the format of a reply, so that a small model cannot miss it
"""
