"""Model files (GGUF) on this machine: what can be had, where it lies, and how it gets here.

`find` turns a model string (``local/NAME`` or ``local/PATH.gguf``) into a file; `offered` lists the files
that the picker can offer. Nothing here runs a model.
"""

from dspy_demo.lm.local_models.finding import DOWNLOADED, checksum, find, offered
from dspy_demo.lm.local_models.model import PREFIX, LocalModel

__all__ = ["DOWNLOADED", "PREFIX", "LocalModel", "checksum", "find", "offered"]
