"""The public link: Gradio's tunnel from a share server to this app, with a deadline and an owner."""
