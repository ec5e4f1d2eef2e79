"""Simulation, training and evaluation of the network: for ML developers, never imported by the runtime."""
