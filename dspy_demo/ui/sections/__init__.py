"""The sections of the page: one file each, with `draw` and `wire` side by side."""
