"""How the page looks: one accent colour, the system's fonts, and the files in `assets/`."""

from __future__ import annotations

import gradio as gr

from dspy_demo.ui.components import asset

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Calm greys and one teal; nothing is fetched from the network."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.zinc,
        font=SANS,
        font_mono=MONO,
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#161618",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#161618",
        background_fill_secondary="#f6f6f7",
        background_fill_secondary_dark="#1d1d20",
        body_text_color="#1f2023",
        body_text_color_dark="#ececee",
        body_text_color_subdued="#61636b",
        body_text_color_subdued_dark="#a5a7b0",
        border_color_primary="#e2e3e7",
        border_color_primary_dark="#34353b",
        border_color_accent="#0f766e",
        border_color_accent_dark="#2dd4bf",
        color_accent="#0f766e",
        color_accent_soft="#eef3f2",
        color_accent_soft_dark="#26292b",
        link_text_color="#0f766e",
        link_text_color_dark="#5eead4",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_info_text_color="*body_text_color_subdued",
        block_label_text_color="*body_text_color_subdued",
        block_title_text_color="*body_text_color",
        block_title_text_weight="500",
        block_padding="0px",
        block_shadow="none",
        input_border_width="1px",
        input_shadow="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="#232327",
        input_border_color="#d3d5da",
        input_border_color_dark="#3f4148",
        input_border_color_focus="#0f766e",
        input_border_color_focus_dark="#2dd4bf",
        input_placeholder_color="#6b6d75",
        input_placeholder_color_dark="#9a9ca5",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#2dd4bf",
        button_primary_background_fill_hover="#0b5f58",
        button_primary_background_fill_hover_dark="#5eead4",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#0b1f1d",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_secondary_background_fill_hover="#efeff1",
        button_secondary_background_fill_hover_dark="#2a2a2f",
        checkbox_background_color_selected="#0f766e",
        checkbox_background_color_selected_dark="#0f766e",
        checkbox_border_color_selected="#0f766e",
        checkbox_border_color_selected_dark="#0f766e",
        error_text_color="#b42318",
        error_text_color_dark="#fca5a5",
    )


def css() -> str:
    return asset("page.css") + asset("sections.css")


def head() -> str:
    """Runs before the page is drawn: see page.js."""
    return f"<script>{asset('page.js')}</script>"
