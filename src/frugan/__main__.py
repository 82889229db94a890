"""`python -m frugan`, which torchrun needs."""

from frugan.cli import main

main()
