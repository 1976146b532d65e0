"""The page: events drawn as a chat. Nothing outside this package knows that it is Gradio."""
