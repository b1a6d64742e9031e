"""Processes in a container: told by the runtime what to be, started, led in, and awaited."""
