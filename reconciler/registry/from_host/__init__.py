"""Mirrors that a host has declared for other programs, read from those programs' own files."""
