"""How the page looks: one accent colour, the system's fonts, and the files in `assets/`."""

from __future__ import annotations

import gradio as gr

from dspy_demo.ui.components import asset

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
#: By the theme's names for them: light and dark.
COLOURS = {
    "background_fill_primary": ("#ffffff", "#161618"),
    "background_fill_secondary": ("#f6f6f7", "#1d1d20"),
    "body_text_color": ("#1f2023", "#ececee"),
    "body_text_color_subdued": ("#61636b", "#a5a7b0"),
    "border_color_primary": ("#e2e3e7", "#34353b"),
    "border_color_accent": ("#0f766e", "#2dd4bf"),
    "color_accent_soft": ("#eef3f2", "#26292b"),
    "link_text_color": ("#0f766e", "#5eead4"),
    "input_background_fill": ("#ffffff", "#232327"),
    "input_border_color": ("#d3d5da", "#3f4148"),
    "input_border_color_focus": ("#0f766e", "#2dd4bf"),
    "input_placeholder_color": ("#6b6d75", "#9a9ca5"),
    "button_primary_background_fill": ("#0f766e", "#2dd4bf"),
    "button_primary_background_fill_hover": ("#0b5f58", "#5eead4"),
    "button_primary_text_color": ("#ffffff", "#0b1f1d"),
    "button_secondary_background_fill_hover": ("#efeff1", "#2a2a2f"),
    "error_text_color": ("#b42318", "#fca5a5"),
    "block_background_fill": ("transparent", "transparent"),
    "button_secondary_background_fill": ("transparent", "transparent"),
}
SIZES = {
    "color_accent": "#0f766e",
    "block_label_text_color": "*body_text_color_subdued",
    "block_title_text_color": "*body_text_color",
    "block_title_text_weight": "500",
    "block_padding": "0px",
    "block_border_width": "0px",
    "input_border_width": "1px",
}


def theme() -> gr.themes.Base:
    """Calm greys and one teal; nothing is fetched from the network."""
    values = SIZES | {name: colours[0] for name, colours in COLOURS.items()}
    values |= {f"{name}_dark": colours[1] for name, colours in COLOURS.items()}
    hues = {"primary_hue": gr.themes.colors.teal, "neutral_hue": gr.themes.colors.zinc}
    base = gr.themes.Base(font=SANS, font_mono=MONO, radius_size=gr.themes.sizes.radius_md, **hues)
    return base.set(**values)


def head() -> str:
    """Runs before the page is drawn: see page.js."""
    return f"<script>{asset('page.js')}</script>"
