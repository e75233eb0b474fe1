"""The analysis recipe on a miniature."""

from miniature import options_for

from recipes import analysis


def run(folder, out, *more):
    return analysis.main([*options_for(folder, out, pairs=8), *map(str, more)])
