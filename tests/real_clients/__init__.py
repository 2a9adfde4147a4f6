"""Tools that people have already, unmodified, against a running server: `make test-clients`.

They live in an environment of their own, `.venv-clients`, because they pin libraries that the project does not; the
server runs in the project's.
"""
