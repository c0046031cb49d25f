"""What the planner and the engines say to each other: desired, observed, actions, reasons. Pure values."""
