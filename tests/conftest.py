"""What all tests share."""

from hypothesis import settings

settings.register_profile("long", max_examples=600)
