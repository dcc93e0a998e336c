"""The built-in surgeries."""
