"""What bytes are, by how they begin: what is no ONNX file is named, with how to make one of it. Pure."""

from __future__ import annotations

from typing import Final

from control.registry.admission.report import Check, Refused

EXPORT: Final = "export the model with skl2onnx, onnxmltools or torch.onnx and upload the .onnx file"
CONVERT: Final = (
    *(
        (
            library.encode(),
            "convert it where it was trained: `from onnxmltools.convert.common.data_types import FloatTensorType; "
            f"onnx = onnxmltools.convert_{library}(model, "
            'initial_types=[("input", FloatTensorType([None, COLUMNS]))])`; write onnx.SerializeToString() to a file',
        )
        for library in ("lightgbm", "xgboost")
    ),
    (
        b"torch",
        'export it where it was trained: `torch.onnx.export(model.eval(), (x,), "model.onnx", '
        'dynamic_shapes=({0: torch.export.Dim("rows")},), external_data=False)`, x being two rows or more',
    ),
    (b"catboost", 'export it where it was trained: `model.save_model("model.onnx", format="onnx")`'),
    (
        b"keras",
        "export it where it was trained, by `tf2onnx.convert.from_keras` or, with Keras 3, by `model.export`",
    ),
    (
        b"sklearn",
        "convert it where it was trained: `onnx = skl2onnx.to_onnx(model, X[:1])`, X being what it was fitted on, and "
        "write onnx.SerializeToString() to a .onnx file",
    ),
)
"""By the library whose name is found in the first bytes: how it becomes an ONNX file."""
LOOKED_AT_BYTES: Final = 4096

MAGIC: Final = (
    (0, b"PK\x03\x04", "a zip archive (a .npz, a .pt or a saved Keras model is one too)"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"\xfd7zXZ\x00", "xz-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard-compressed"),
    (0, b"\x78\x01", "zlib-compressed, as joblib compresses its pickles"),
    (0, b"\x78\x5e", "zlib-compressed, as joblib compresses its pickles"),
    (0, b"\x78\x9c", "zlib-compressed, as joblib compresses its pickles"),
    (0, b"\x78\xda", "zlib-compressed, as joblib compresses its pickles"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)"),
    (4, b"ORTM", "an .ort file, which cannot be checked"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x89PNG", "an image"),
    (0, b"\xff\xd8\xff", "an image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"#!", "a script"),
    (0, b"\xef\xbb\xbf", "text"),
)
"""Where a format's mark lies, what it is, and what to call it."""

SAVED: Final = (
    (b"tree\nversion=", "a LightGBM model as text", b"lightgbm"),
    (b'{"learner":', "an XGBoost model as JSON", b"xgboost"),
    (b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner", "an XGBoost model as UBJSON", b"xgboost"),
    (b"CBM1", "a CatBoost model", b"catboost"),
)
"""How the files begin that libraries save of their own, what to call them, and whose they are."""

PICKLES: Final = (
    *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)),
    *(b"(dp", b"(lp", b"(i", b"ccopy_reg\n", b"c__builtin__\n", b"cposix\n", b"cos\n", b"csklearn"),
)


def check_format(data: bytes) -> None:
    """Refuses what is plainly no ONNX file."""
    if not data:
        raise Refused(Check.FORMAT, f"the file is empty; {EXPORT}")
    for begins, name, library in SAVED:
        if data.startswith(begins):
            raise Refused(Check.FORMAT, f"the file is {name}; {_conversion(library)}")
    if data.startswith(PICKLES):
        raise Refused(
            Check.FORMAT,
            "the file is a pickle (or joblib), and loading one runs whatever code its author put there, so this will "
            f"not; {_conversion(data[:LOOKED_AT_BYTES])}",
        )
    for offset, mark, name in MAGIC:
        if data[offset : offset + len(mark)] == mark:
            raise Refused(Check.FORMAT, f"the file is {name}; {_conversion(data[:LOOKED_AT_BYTES])}")
    if not data[:LOOKED_AT_BYTES].strip(b"\x00"):
        raise Refused(Check.FORMAT, f"the file begins with zeros only; {EXPORT}")
    if _is_text(data[:512]):
        raise Refused(Check.FORMAT, f"the file is text (JSON, HTML or a textual protobuf?); {EXPORT}")


def _conversion(head: bytes) -> str:
    """How the model becomes an ONNX file, by whose name is found first; an archive of data.pkl is torch's."""
    head = head.replace(b"/data.pkl", b"torch").replace(b"/data/0", b"torch")
    found = [(head.find(name), how) for name, how in CONVERT if name in head]
    return min(found)[1] if found else EXPORT


def _is_text(head: bytes) -> bool:
    """An ONNX file begins with the field of a small number, so one of its first bytes is a control character."""
    return all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head)
