"""The tasks room of frugan."""
