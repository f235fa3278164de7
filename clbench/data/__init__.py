"""Text: tasks and streams, where their examples come from, and the audit of them. No torch."""
