"""Layers as directories: unpacked in confined workers, listed file by file, compared, and made from what changed."""
