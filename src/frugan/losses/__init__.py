"""The losses room of frugan."""
