"""The command line: each file has one group of commands; it turns text into values, calls one function, and prints."""
