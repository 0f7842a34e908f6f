"""What both reports send to the model `columns`: plain values, for environments that have nothing of ours."""

DATATYPES = {
    "BOOL": ("flag", [True, False]),
    "INT8": ("whole", [-128, 127]),
    "INT16": ("whole", [-32768, 32767]),
    "INT32": ("whole", [-(2**31), 2**31 - 1]),
    "INT64": ("whole", [-(2**63), 2**63 - 1]),
    "UINT8": ("whole", [0, 255]),
    "UINT16": ("whole", [0, 65535]),
    "UINT32": ("whole", [0, 2**32 - 1]),
    "UINT64": ("whole", [0, 2**63 - 1]),
    "FP16": ("single", [-0.5, 65504.0]),
    "FP32": ("single", [0.1, 3.0e38]),
    "FP64": ("single", [0.1, 1.0]),
    "BYTES": ("word", ["ny", "Köln ☎"]),
}
"""By datatype: the request-time input that takes it, and its smallest and largest values."""
ORDINARY = {
    "flag": ("BOOL", [True, False]),
    "small": ("INT32", [1, 2]),
    "whole": ("INT64", [1, 2]),
    "single": ("FP32", [1.0, 2.0]),
    "double": ("FP64", [1.0, 2.0]),
    "word": ("BYTES", ["ny", "tx"]),
}
"""A good call by the names of request-time inputs."""
GRAPH = {
    "flag_in": ("BOOL", [True, False]),
    "small_in": ("INT32", [-(2**31), 2**31 - 1]),
    "whole_in": ("INT64", [-(2**63), 2**63 - 1]),
    "single_in": ("FP32", [0.1, 3.0e38]),
    "double_in": ("FP64", [0.1, 1.0 + 2**-52]),
    "word_in": ("BYTES", ["ny", "Köln ☎"]),
}
"""A good call by the graph's own inputs."""
