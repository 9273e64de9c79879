"""Sessions: what they are (record, identity), how they live (lifecycle) and where they are kept (stores)."""
