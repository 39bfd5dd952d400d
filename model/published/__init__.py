"""Hugging Face checkpoints, served with this project's cross-attention and maps. docs/models.md has the families.

`loading` goes from a folder (`hub` fetches it) to the family that its config.json names; a family is a folder or a
module that says so itself. Three kinds of them share their parts:

* ``blip``, ``vilt`` and ``dual_encoder`` (CLIP, SigLIP): `family` alone;
* ``blip2``, ``instructblip``, ``mllama`` and ``idefics``, which write behind a prompt: ``prompted``;
* ``causal`` (LLaVA and its kin), whose images are tokens among the text.

All that write do it by ``generation``. `map_passes` makes maps, `attention` puts ours into transformers' models.
"""
