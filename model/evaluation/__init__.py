"""Judging any model that answers questions: accuracy, calibration, and what its maps are worth.

`evaluate` is behind ``crosslook-server eval``: it asks the questions of `data`, and `judging` says how right each
answer is. `map_worth` measures maps by `perturbation` and `pointing`, beside the controls of `map_controls`. `report`
writes it all down.
"""
