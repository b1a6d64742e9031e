"""A container that does nothing but look at the clock moves, and says how long it stood still."""
