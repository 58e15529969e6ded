"""Training on many workers, simulated: a step, the run, and the rates that they follow from."""
