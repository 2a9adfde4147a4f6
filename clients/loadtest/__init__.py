"""Load tester: `maskline loadtest URL IMAGES... --concurrency 1,8,32`, `--rate 20` or `--scenario server`."""
