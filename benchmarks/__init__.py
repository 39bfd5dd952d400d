"""What the figures of README and docs come from.

Each module is run by its name (``python -m benchmarks.model``) and prints a table with the machine that it ran on; most
keep it in ``benchmarks/results``.

* The model alone: `model`, `kernel`, `published`, `reading`.
* The service: `serve` (against `rivals` and `lit`), `cached`, `hostile`, `memory`, `clients`, `decoding`.
* Several servers: `scale`, and `queueing` on paper.
"""
