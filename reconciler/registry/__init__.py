"""Registries: resolve, fetch and push over the OCI distribution protocol, with logins and mirrors."""
