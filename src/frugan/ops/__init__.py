"""The ops room of frugan."""
