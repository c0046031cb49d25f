"""Declarative images, tags, containers and registry mirrors for one host."""

__version__ = "0.1.0"
