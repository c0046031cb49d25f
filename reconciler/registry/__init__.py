"""Registries: resolve, fetch and push over the OCI distribution protocol, with logins and mirrors."""

import sys

# httpx imports its own command line where click is installed, and that takes longer than all the rest of it.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
