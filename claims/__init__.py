"""Claims of the papers, each one runnable: `python -m claims NAME --size smoke|cpu|full`.

A claim states its question and what its source says, trains, measures and writes down what came out, whatever it is.
"""
