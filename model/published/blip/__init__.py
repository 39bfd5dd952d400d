"""BLIP (Li et al. 2022): answers, captions and matching."""
