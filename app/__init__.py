"""The service: HTTP around a model. `main` wires it, `cli` starts it, `settings` has every setting.

1. ``routes``: a module for each dialect, thin: they parse, ask, and format (`wire` makes wire types of model outputs).
2. ``intake``: bodies and images, which nobody trusts, made safe and decoded.
3. `request_context`: what every dialect does between these: the caller (`auth`), limits, the image, the engine.
   ``conversation`` does so for OpenAI's two.
4. ``engine``: what waits, batches, worker processes with the model, encoded images that are kept.

``web`` is the page. Errors are in `errors`, logs, metrics and traces in `telemetry`, `logs`, `metrics` and `tracing`.
"""
