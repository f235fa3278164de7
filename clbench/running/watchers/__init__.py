"""Plugins that look on while a run is made."""
