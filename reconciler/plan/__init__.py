"""Planning: a pure function of what is desired and what was observed, and how its result is shown and saved."""
