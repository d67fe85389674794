"""The command line: one file a command that parses, calls one function, renders, and exits."""
