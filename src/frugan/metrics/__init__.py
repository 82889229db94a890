"""The metrics room: numbers that compare sets of pictures."""
