"""Every upload is hostile: it is parsed, limited, checked, loaded and run in a process that is thrown away.

`gate` is the server's side and touches no byte of a model. `python -m control.registry.admission` is the other: it
gives up what it could harm (`sandbox`), then looks at the bytes (`formats`, `wire`), at the graph (`graph`, `tensors`,
`tabular`), and at what the model does (`behaviour`, the only place in the control plane that imports onnxruntime).
"""
