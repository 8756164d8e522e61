"""The options of the benchmarks that have several."""

import argparse


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script: its first paragraph, the options, the rest."""
    described, _, more = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=name, description=described, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
