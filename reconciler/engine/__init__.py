"""Engines: what carries a plan out. ``port`` is all that the rest of the program knows of them."""
