"""What a file is that is no checkpoint of ours, by its name and its first bytes, and what to do with it.

    what_it_is(path)      "is compressed (gzip). Unpack it first, and give what comes out."

Cost: the first bytes of one file. Not here: reading any of these.
"""

from __future__ import annotations

from pathlib import Path

# By the endings of names: whose weights these are, as messages go on after "weights of".
LIBRARIES = {
    ".gguf": "GGUF, which is quantised or of another library",
    ".ggml": "GGML, which is quantised or of another library",
    ".h5": "TensorFlow",
    ".hdf5": "TensorFlow",
    ".pb": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".ot": "Rust",
    ".npz": "NumPy",
    ".npy": "NumPy",
    ".keras": "Keras",
    ".tflite": "TensorFlow Lite",
    ".pdparams": "Paddle",
    ".nemo": "NeMo",
    ".mlmodel": "Core ML",
    ".pt2": "torch.export",
}
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2")  # what browsers and hubs leave
_CONVERT = "Convert it with that library: save_pretrained, or the tensors with save_file of safetensors."
_BEGIN = (
    (b"GGUF", f"holds weights of {LIBRARIES['.gguf']}, which prefmerge does not read. {_CONVERT}"),
    (b"\x89HDF", f"holds weights of TensorFlow or Keras, which prefmerge does not read. {_CONVERT}"),
    (b"\x93NUMPY", f"holds an array of NumPy, which prefmerge does not read. {_CONVERT}"),
    *(
        (magic, f"is compressed ({how}). Unpack it first, and give what comes out.")
        for magic, how in (
            (b"\x1f\x8b", "gzip"),
            (b"BZh", "bzip2"),
            (b"\xfd7zXZ", "xz"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"7z\xbc\xaf", "7-Zip"),
            (b"Rar!", "RAR"),
        )
    ),
)
_TAR = (257, b"ustar")  # where an archive of tar says so
_READ = 512  # bytes


def what_it_is(path: Path) -> str | None:
    """What to say of a file, after its path: what it is, and what to do. None where nothing is known of it. Raises
    OSError.
    """
    with path.open("rb") as file:
        start = file.read(_READ)
    for magic, said in _BEGIN:
        if start.startswith(magic):
            return said
    if start[_TAR[0] :].startswith(_TAR[1]) and path.suffix.lower() != ".nemo":
        return "is an archive (tar). Unpack it first, and give what comes out."
    suffix = path.suffix.lower()
    if suffix in UNFINISHED:
        return "is a download that did not end. Download it again."
    if suffix in LIBRARIES:
        return f"holds weights of {LIBRARIES[suffix]}, which prefmerge does not read. {_CONVERT}"
    # Without a zero: the length of a header, as it stands at the start of a safetensors file, may begin with a "<" too.
    if b"\0" not in start and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "is a web page, not weights: a message, or the page about the file. Download the file itself."
    if start and _is_text(start):
        return "is a text, not weights. Give the file that holds the weights, or download it again."
    return None


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r" for byte in start) and b"\x7f" not in start and max(start) < 127
