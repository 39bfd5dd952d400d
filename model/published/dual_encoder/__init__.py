"""CLIP and SigLIP: a module each, and what they share in `base`."""
