"""How the answers of two models differ: `maskline diff`."""
