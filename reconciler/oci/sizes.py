"""How large documents of images may be. Apart from what reads them: every command knows the limits."""

from __future__ import annotations

DEFAULT_MANIFEST_BYTES = 4 * 1024 * 1024
"""What is taken from outside, unless the owner of a host allows more or less."""

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""What is read at all: nobody can allow more, and what was taken once can always be read again."""
