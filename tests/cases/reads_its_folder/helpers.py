PREFIX = "note: "


def clean(text):
    return text.strip()
