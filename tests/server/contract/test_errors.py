from __future__ import annotations

import inspect

from server.contract import errors


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.MasklineError)]
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        name = words.split()[0] if words.split() else ""
        if name not in {cls.__name__ for cls in classes}:
            continue
        depth = len(words) - len(words.lstrip())
        above = [(d, n) for d, n in above if d < depth]
        drawn[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))

    assert drawn == {cls.__name__: cls.__base__.__name__ for cls in classes if cls.__base__}
