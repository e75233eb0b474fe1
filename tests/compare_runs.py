"""The comparison recipe on a miniature."""

from miniature import options_for

from recipes import compare


def run(folder, out, *more):
    return compare.main([*options_for(folder, out, pairs=4), *map(str, more)])
