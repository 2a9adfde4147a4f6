"""Loops that numba compiles, and `load`, which makes sure that they are."""


def load() -> None:
    """Compiles them, or reads them from disk: some seconds the first time on a machine, a third of a second later."""
    from server.compiled import linear, masks, resize  # noqa: F401
