"""A container into an image directory and out of it again: what CRIU is told, and what we add."""
