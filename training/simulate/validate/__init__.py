"""Plots that hold simulated frames against closed forms and against real frames: `python -m training.simulate.validate OUT`."""
