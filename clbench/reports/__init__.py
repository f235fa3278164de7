"""Records as tables, pictures and pages, beside each other and beside published numbers. No torch."""
