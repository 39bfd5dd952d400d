"""The neural part: images and questions in, answers and maps out. Knows nothing of HTTP.

Read `cross_attention` first (``kernels`` computes it), then `interface`: what the service asks of any model. `family`,
`rows`, `grid_maps` and `attribution` are what the families share; `registry` goes from a name to a loaded model.

* ``compact``: the default model; its weights and its model card are in ``weights/compact``.
* ``published``: Hugging Face checkpoints with this cross-attention inside.
* ``training`` makes the default model, ``evaluation`` judges any.

A map is made in two steps. A family says how much each token looked at each key of the image (`compact.token_maps`,
`published.map_passes`; `attribution` where that is more than one layer's attention). `grid_maps` lays that on the patch
grid, and knows which tokens are a word; whoever reads the answer takes the mean of these tokens' maps.

Nothing is imported here: the server's parent process reads what is free of torch.
"""
