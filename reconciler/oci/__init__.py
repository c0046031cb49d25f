"""The OCI image vocabulary as pure values: references, digests, descriptors, manifests, configs, chain IDs."""
