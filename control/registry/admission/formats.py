"""What bytes are, by how they begin: what is no ONNX file is named, with how to make one of it. Pure."""

from __future__ import annotations

from typing import Final

from control.registry.admission.report import Check, Refused

EXPORT: Final = "export the model with skl2onnx, onnxmltools or torch.onnx and upload the .onnx file"

MAGIC: Final = (
    (0, b"PK\x03\x04", "a zip archive (a .npz, a .pt or a saved Keras model is one too)"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"\xfd7zXZ\x00", "xz-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard-compressed"),
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

PICKLES: Final = (
    *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)),
    *(b"(dp", b"(lp", b"(i", b"ccopy_reg\n", b"c__builtin__\n", b"cposix\n", b"cos\n", b"csklearn"),
)


def check_format(data: bytes) -> None:
    """Refuses what is plainly no ONNX file."""
    if not data:
        raise Refused(Check.FORMAT, f"the file is empty; {EXPORT}")
    if data.startswith(PICKLES):
        raise Refused(
            Check.FORMAT,
            f"the file is a pickle (or joblib), and loading one runs whatever code its author put there; {EXPORT}",
        )
    for offset, mark, name in MAGIC:
        if data[offset : offset + len(mark)] == mark:
            raise Refused(Check.FORMAT, f"the file is {name}; {EXPORT}")
    if not data[:4096].strip(b"\x00"):
        raise Refused(Check.FORMAT, f"the file begins with zeros only; {EXPORT}")
    if _is_text(data[:512]):
        raise Refused(Check.FORMAT, f"the file is text (JSON, HTML or a textual protobuf?); {EXPORT}")


def _is_text(head: bytes) -> bool:
    """An ONNX file begins with the field of a small number, so one of its first bytes is a control character."""
    return all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head)
