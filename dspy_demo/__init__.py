"""Try, watch, version and serve a DSPy program. See ARCHITECTURE.md for the shape of the house."""

__version__ = "0.1.0"
