"""The pictures (matplotlib, an extra)."""
