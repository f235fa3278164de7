"""The benchmark's tasks, streams and presets, as TOML files beside this module."""
