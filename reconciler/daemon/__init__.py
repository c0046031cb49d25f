"""Keeps a host as its specs say: the loop, what wakes it, backoff, and what it lets others see."""
