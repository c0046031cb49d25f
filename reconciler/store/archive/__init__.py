"""Tar archives as layers have them: read within bounds, written deterministically, compressed or not."""
