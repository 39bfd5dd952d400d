"""The neural part: images and questions in, answers and maps out. Knows nothing of HTTP.

Read `cross_attention` first (``kernels`` computes it), then `interface`: what the service asks of any model. `family`,
`rows`, `grid_maps` and `attribution` are what the families share; `registry` goes from a name to a loaded model.

* ``compact``: the default model; its weights and its model card are in ``weights/compact``.
* ``published``: Hugging Face checkpoints with this cross-attention inside.
* ``training`` makes the default model, ``evaluation`` judges any.

Nothing is imported here: the server's parent process reads what is free of torch.
"""
