"""Load tester: `python -m clients.loadtest URL IMAGES... --concurrency 1,8,32` or `--rate 20`."""
