"""Physics-true diffraction frames with exact labels.

`scene` draws the parameters of a frame, `render` turns parameters into counts and labels: what was rolled is recorded, and a frame can be
made again from its parameters alone.
"""
