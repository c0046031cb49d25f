"""The command line: arguments, environment, wiring and rendering. The only room that reads the environment."""
