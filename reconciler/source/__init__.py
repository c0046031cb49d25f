"""Where specs come from: a directory of the host, or a git repository."""
