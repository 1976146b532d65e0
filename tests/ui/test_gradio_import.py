"""Gradio without its check of the type stubs, in a process of its own: here it is imported already."""

from __future__ import annotations

import subprocess
import sys

import gradio.component_meta

from dspy_demo.ui.gradio_import import CHECK

PROGRAM = """
import pathlib, sys
stubs = []
read_text = pathlib.Path.read_text
def counting(path, *rest, **more):
    stubs.extend([path] if path.suffix == ".pyi" else [])
    return read_text(path, *rest, **more)
pathlib.Path.read_text = counting
from dspy_demo.ui.gradio_import import _Finder, import_gradio
import_gradio()
import_gradio()
import gradio as gr
with gr.Blocks():
    box = gr.Textbox("there")
    box.submit(lambda text: text, box, box)
print(len(stubs), any(isinstance(finder, _Finder) for finder in sys.meta_path), box.value)
"""


def test_the_stubs_are_left_alone_and_gradio_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["0", "False", "there"]


def test_gradio_still_checks_them() -> None:
    """Else `gradio_import` can go."""
    assert callable(getattr(gradio.component_meta, CHECK))
