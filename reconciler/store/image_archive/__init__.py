"""Images in archives: OCI layouts and docker-archives, read and written."""
