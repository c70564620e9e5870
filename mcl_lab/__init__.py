"""mcl_lab: online knowledge distillation by mutual contrastive learning.

`import mcl_lab` imports nothing else; `mcl_lab.load` imports PyTorch when it is called.
"""

from os import PathLike

TYPE_CHECKING = False  # typing's would be an import
if TYPE_CHECKING:
    from mcl_lab.networks.portable import PortableNetwork

__all__ = ["load"]


def load(path: str | PathLike, peer: str | None = None) -> "PortableNetwork":
    """A trained network, ready to use: images (B, 3, H, W), RGB in [0, 1], to logits (B, C).

    path: a run folder, a checkpoint file in one, or what task=export wrote, a card (`NAME.json`) or its weights
    (`NAME.safetensors`). peer: whose network, where there are several. It comes on the CPU, in eval mode, and normalises
    the images itself; see `PortableNetwork` for its attributes and `embeddings`. No code that is in the files runs.
    Raises ValueError, in one line, for what cannot be read, is damaged, or names what is not allowed.
    """
    from mcl_lab.export.card import load

    return load(path, peer)
