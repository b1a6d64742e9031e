"""A container's filesystem: its mounts planned, made without following a name, and closed."""
