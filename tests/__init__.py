"""The run-time type checker of the tests: as mypy, it takes a whole number where a float is asked for."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
