"""The version of the package, apart so that nothing below ``__init__`` has to import it."""

__version__ = "0.1.0"
