"""The channel structure of a foreign model: find it, gate it, remove from it, rebuild it."""
