"""Containers and their volumes, from rows and specs to what the runtime is given."""
