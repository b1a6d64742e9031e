"""What config.json says: read and checked against one table of fields, then an immutable model."""
