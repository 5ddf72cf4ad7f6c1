"""The `specrt` command: main.py is the table of contents, every command has a file."""
