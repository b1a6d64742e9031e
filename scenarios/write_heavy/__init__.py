"""A process that writes to its memory all the time moves, and finds every page as it wrote it."""
