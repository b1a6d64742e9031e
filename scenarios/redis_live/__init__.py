"""A Redis with a connected client that writes moves, and no write is lost."""
