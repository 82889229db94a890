"""The training room of frugan."""
