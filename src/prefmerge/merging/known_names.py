"""What is known of tensor names, whatever the model: wrappers, other versions of a library, buffers, heads, and tensors
that are only a part of a weight.

    module.encoder._orig_mod.conv.weight_g  ->  encoder.conv.parametrizations.weight.original0      (`plain_names`)

Both sides of a comparison are made plain, so that no name has to be known as the newer one. Sources: DataParallel,
torch.compile, FSDP, checkpoint_wrapper and Lightning for wrappers; torch.nn.utils for weight and spectral norms;
transformers (LayerNorm, and the vision-language models of 4.52) and torchvision (DenseNet, MLP blocks) for renames.
Cost: a few regular expressions for each name. Not here: which names belong together (`matching`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from prefmerge.checkpoints import TensorInfo

WRAPPERS = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
)
_WRAPPER = re.compile(rf"(?<![^.])(?:{'|'.join(WRAPPERS)})\.")
_RENAMES = (
    (re.compile(r"(?<![^.])(\w*weight\w*)_g$"), r"parametrizations.\1.original0"),
    (re.compile(r"(?<![^.])(\w*weight\w*)_v$"), r"parametrizations.\1.original1"),
    (re.compile(r"(?<![^.])([^.]*(?:norm|ln|bn)[^.]*)\.gamma$", re.IGNORECASE), r"\1.weight"),
    (re.compile(r"(?<![^.])([^.]*(?:norm|ln|bn)[^.]*)\.beta$", re.IGNORECASE), r"\1.bias"),
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
_RENAMED = re.compile(r"weight\w*_[gv]$|\.(?:gamma|beta)$|denselayer|\.mlp\.linear_", re.IGNORECASE)
_SPECTRAL = (("_orig", "original"), ("_u", "0._u"), ("_v", "0._v"))
# What some name of a checkpoint must match each of -> the renames that its names get then.
_STYLES = (
    (
        (r"language_model\.model\.",),
        (
            (r"^language_model\.model\.", "model.language_model."),
            (r"^language_model\.lm_head\.", "lm_head."),
            (r"^(vision_tower|vision_model|multi_modal_projector|image_newline)(?![^.])", r"model.\1"),
        ),
    ),
    (
        (r"visual\.", r"model\.layers\.", r"model\.embed_tokens\."),
        ((r"^visual\.", "model.visual."), (r"^model\.(?!visual\.|language_model\.)", "model.language_model.")),
    ),
)

_BUFFERS = re.compile(
    r"(?:.*\.)?(?:position_ids|token_type_ids|masked_bias|(?:original_)?inv_freq|num_batches_tracked|attn_mask"
    r"|causal_mask|relative_position_index|relative_coords_table|(?:cos|sin)_cached|freqs_cis|_extra_state)"
)
_CAUSAL_MASK = re.compile(r"(?:.*\.)?(?:attn|attention|self_attention)\.bias")
_HEAD = re.compile(
    r"(?:\w+_)?(?:heads?|classifiers?|pooler|predictions)(?:_\w+)?|cls|scores?|logits|fc|qa_outputs|embed_out"
    r"|seq_relationship|regressor|vocab_(?:projector|transform|layer_norm)|aux_?logits",
    re.IGNORECASE,
)

# Tensors that are no weights: what a layer computes with is made of several of them. Adapters by PEFT's, kohya's and
# LyCORIS's names; those that torch.nn.utils makes.
_OF_ADAPTERS = re.compile(
    r"(?:.*\.)?(?:\w*lora_(?:A|B|down|up|mid|embedding_[AB]|magnitude_vector)|dora_scale|hada_[wt]\d(?:_[ab])?"
    r"|lokr_[wt]\d(?:_[ab])?|oft_(?:R|S|blocks|diag)|boft_[RS]|ia3_l|vera_(?:lambda_[bd]|[AB]))(?:\..*)?"
)
_COMPUTED = re.compile(r"(?:.*\.)?(?:parametrizations\..+|weight\w*_(?:orig|mask|g|v|u))")


def without_wrappers(name: str) -> str:
    """The name without the segments that training puts around modules."""
    return _WRAPPER.sub("", name)


def wrappers_in(name: str) -> list[str]:
    """Those segments, in order, each with its dot."""
    return _WRAPPER.findall(name)


def plain_names(names: Collection[str]) -> dict[str, str]:
    """The plain name of each of a checkpoint's names."""
    bare = {name: without_wrappers(name) for name in names}
    normed = {own.removesuffix("_orig") for own in bare.values() if own.endswith("_orig")}
    of_style = [
        (re.compile(old), new)
        for needed, renames in _STYLES
        if all(any(map(re.compile(one).match, bare.values())) for one in needed)
        for old, new in renames
    ]
    return {name: _renamed(own, normed, of_style) for name, own in bare.items()}


def _renamed(name: str, normed: Collection[str], of_style: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """`normed`: the weights under a spectral norm, whose `weight_v` is another one than a weight norm's."""
    for suffix, stored in _SPECTRAL if normed else ():
        if name.endswith(suffix) and name.removesuffix(suffix) in normed:
            module, dot, weight = name.removesuffix(suffix).rpartition(".")
            return f"{module}{dot}parametrizations.{weight}.{stored}"
    for old, new in (*(_RENAMES if _RENAMED.search(name) else ()), *of_style):
        name = old.sub(new, name)
    return name


def is_buffer(info: TensorInfo) -> bool:
    """Whether a tensor is one that no training changes: whole numbers, masks, tables made from the configuration."""
    if info.dtype.family == "integer" or _BUFFERS.fullmatch(info.name):
        return True
    mask = len(info.shape) == 4 and info.shape[:2] == (1, 1) and info.shape[2] == info.shape[3]
    return mask and _CAUSAL_MASK.fullmatch(info.name) is not None


def is_of_adapter(name: str) -> bool:
    """Whether a tensor is a part of an adapter, which changes a weight that is stored apart from it."""
    return _OF_ADAPTERS.fullmatch(name) is not None


def is_part_of_weight(name: str) -> bool:
    """Whether a tensor is one of those that torch makes a weight of: under a weight or spectral norm, pruned,
    parametrised.
    """
    return _COMPUTED.fullmatch(name) is not None


def branches(names: Iterable[str]) -> set[str]:
    """Every module that one of the tensors lies in: `a.b.weight` gives `a` and `a.b`."""
    modules: set[str] = set()
    for name in names:
        module = name.rpartition(".")[0]
        while module and module not in modules:
            modules.add(module)
            module = module.rpartition(".")[0]
    return modules


def is_head(name: str, trunk: Collection[str]) -> bool:
    """Whether a tensor lies in a head beside the modules of `trunk`: in a module that the trunk lacks, called as heads
    are, and not in one of its numbered layers.
    """
    *modules, _ = name.split(".")
    for depth, module in enumerate(modules, 1):
        if ".".join(modules[:depth]) not in trunk:
            return _HEAD.fullmatch(module) is not None
        if module.isdigit():
            return False
    return False
