"""Images: pulled, loaded, built, committed, named, listed and removed."""
