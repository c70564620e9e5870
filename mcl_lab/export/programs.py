"""A network as files that run by themselves, and what they compute when they are loaded back.

B batch, C classes; images (B, 3, H, W), RGB in [0, 1], to logits (B, C), for any B.
"""

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from mcl_lab.errors import InputError

Computing = Callable[[Tensor], Tensor]
Format = Literal["safetensors", "onnx", "pt2"]
NEEDED: dict[Format, tuple[str, ...]] = {  # packages, besides the required ones
    "safetensors": (),
    "onnx": ("onnx", "onnxscript"),
    "pt2": (),
}


def refuse_missing(formats: Collection[Format]) -> None:
    """Raise InputError("task.formats") when a format needs packages that are not installed."""
    for name in formats:
        if lack := what_lacks(name):
            others = ",".join(other for other in formats if not NEEDED[other]) or "safetensors"
            raise InputError("task.formats", f"{lack}; or without: task.formats=[{others}]")


def what_lacks(name: Format) -> str:
    """Of packages that a format needs, with the remedy; empty when they are installed."""
    missing = [package for package in NEEDED[name] if importlib.util.find_spec(package) is None]
    return f"{name} needs {' and '.join(missing)}: pip install -c constraints.txt -e '.[export]'" if missing else ""


def traced(network: nn.Module, image_size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The program of a network in eval mode, for any number of images. Raises InputError("task.formats") for one whose
    forward asks what only the values of the images tell."""
    example = torch.zeros(2, 3, *image_size)  # with one image, one would be taken for the only number
    with _quiet("task.formats", "be traced for pt2 and onnx; leave both out: task.formats=[safetensors]"):
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def pt2_of(program: torch.export.ExportedProgram) -> bytes:
    """The content of a file for `torch.export.load`."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_of(program: torch.export.ExportedProgram) -> bytes:
    """The content of an ONNX file, `images` to `logits`. Raises InputError("task.formats") for what ONNX cannot say."""
    with _quiet("task.formats", "be said in ONNX; leave it out: task.formats=[safetensors,pt2]"):
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
        assert made is not None  # as dynamo=True promises
        return made.model_proto.SerializeToString()


def run_pt2(content: bytes) -> Computing:
    """What the content of a pt2 file computes."""
    return torch.export.load(io.BytesIO(content)).module()


def run_onnx(content: bytes) -> Computing | None:
    """What the content of an ONNX file computes; None without onnxruntime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@contextmanager
def _quiet(key: str, cannot: str) -> Iterator[None]:
    """Without the exporters' remarks; what they raise becomes an InputError, in one line."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of many kinds, and long
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(key, f"this network cannot {cannot} ({reason})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
