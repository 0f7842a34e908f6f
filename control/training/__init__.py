"""From a table to a registrable model: split, fit, export, golden rows, lineage.

The libraries of the [train] extra (scikit-learn, skl2onnx, pandas) are imported here and in the demo, nowhere else.
Nothing here talks to a service or reads a clock: what comes out is bytes and numbers for a caller to register.
"""
