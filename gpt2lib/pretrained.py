"""Weights from and to Hugging Face's layout: a folder that transformers and its hub read too.

    C channels (= n_embd)   V vocabulary

config.json holds the sizes; model.safetensors the tensors, or pytorch_model.bin, or several of
either with an index. Tensors are called as ours are; the matrices of the blocks are stored
transposed, (in, out), where nn.Linear has (out, in).

Built in the chapter on weights.
"""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt2lib import bpe
from gpt2lib import tokenizer as tokenizers
from gpt2lib.config import GPTConfig
from gpt2lib.corpora import cache_folder, fetched
from gpt2lib.files import whole
from gpt2lib.model import EPS, GPT
from gpt2lib.tokenizer import Tokenizer, printable

HUB = "https://huggingface.co"
# Of each: its place on the hub, with the commit, and the SHA-256 of its model.safetensors, as
# independent projects have pinned them in public.
RELEASES = {
    "gpt2": (
        "openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "gpt2-medium": (
        "openai-community/gpt2-medium/resolve/6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
    ),
    "gpt2-large": (
        "openai-community/gpt2-large/resolve/32b71b12589c2f8d625668d2335a01cac3249519",
        "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
    ),
    "gpt2-xl": (
        "openai-community/gpt2-xl/resolve/15ea56dee5df4983c59b2538573817e1667135e2",
        "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
    "distilgpt2": (  # half of gpt2's layers, trained to say what it says. Source: Sanh et al. 2019
        "distilbert/distilgpt2/resolve/2290a62682d06624634c1f46a6ad5be0f47f38aa",
        "e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b",
    ),
}
SIZES = {  # our name: the one in config.json, and another that transformers takes for it
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "block_size": ("n_positions", "max_position_embeddings"),
    "vocab_size": ("vocab_size", "vocab_size"),
}
FIXED = {  # what makes it GPT-2; a config.json that is silent on one of them means this
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": EPS,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")  # ours is one number for all three
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_JSON = 2**26  # bytes


def load(name_or_folder: str | Path) -> GPT:
    """The model whose weights are "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl" or "distilgpt2",
    or lie in a folder as save, or save_pretrained of transformers, writes it.

    A named one comes from the cache folder, or once from the hub, its SHA-256 checked each time.
    The model is on the CPU, in float32 (float16 and bfloat16 are widened), and in eval mode:
    its dropout waits for train(). Nothing in a file is run.
    Raises ValueError for what is not GPT-2 or is damaged, and names the field, the tensor or the
    file; FileNotFoundError if there is no such folder, or if a download fails.
    Built in the chapter on weights.
    """
    if name_or_folder in RELEASES:
        name = name_or_folder
        config = GPTConfig(n_layer=6) if name == "distilgpt2" else GPTConfig.named(name)
        return _model(replace(config, dropout=0.1), _read([_release(name)]))
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"weights are one of {', '.join(RELEASES)}, or a folder: there is no folder {folder}."
        )
    return _model(_config(folder / "config.json"), _read(_files(folder)))


def save(model: GPT, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder that load and transformers' from_pretrained open, to the same bits.

    With a tokenizer, AutoTokenizer opens the folder too, and encodes as tokenizer.encode does
    with allowed_special="all". The folder takes its name once all of it is on the disk.
    Raises FileExistsError if there is something in it; ValueError if the tokenizer has more ids
    than the model, or tokens that no merging of pairs gives.
    Built in the chapter on weights.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"weights go to a new or empty folder: {folder} holds something.")
    weights, texts = _stored(model), {"config.json": _dump(_described(model, tokenizer))}
    if tokenizer:
        texts |= _tokenizer_files(tokenizer, model.config)
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        for name, text in texts.items():
            with whole(part / name) as file:
                file.write(text.encode())
        with whole(part / "model.safetensors") as file:
            save_file(weights, file.name, metadata={"format": "pt"})
        if folder.exists():
            folder.rmdir()
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def load_tokenizer(name_or_folder: str | Path) -> Tokenizer:
    """The tokenizer of load's model: GPT-2's own for a release, or what is in tokenizer.json.

    Raises ValueError if that is not byte-level BPE as GPT-2 has it, FileNotFoundError if there is
    none.
    """
    if name_or_folder in RELEASES:
        return tokenizers.gpt2()
    path = Path(name_or_folder) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"a folder with a tokenizer has a tokenizer.json: no {path}.")
    stated = _json(path)
    try:
        vocab, special = stated["model"]["vocab"], [t["content"] for t in stated["added_tokens"]]
        shown = [token for token in sorted(vocab, key=vocab.get) if token not in special]
        made = Tokenizer(map(tokenizers.from_printable, shown), special)
        expected = json.loads(_tokenizer_files(made, GPTConfig(vocab_size=made.n_vocab))[path.name])
        merges = [m if isinstance(m, str) else " ".join(m) for m in stated["model"]["merges"]]
        theirs = (stated["model"]["type"], vocab, merges, stated["pre_tokenizer"]["type"])
        model = expected["model"]
        if theirs != (model["type"], model["vocab"], model["merges"], "ByteLevel"):
            raise ValueError("its ids or merges are in another order")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a tokenizer of GPT-2's kind ({error!s:.200}).") from None
    return made


def _release(name: str) -> Path:
    """The path of a release's weights in the cache folder, fetched from the hub if need be."""
    place, sha256 = RELEASES[name]
    path = cache_folder() / name / "model.safetensors"
    instead = "load a folder that pretrained.save wrote, which needs no network."
    address = f"{HUB}/{place}/model.safetensors"
    return fetched(f"the release {name!r}", path, address, sha256, instead)


def _config(path: Path) -> GPTConfig:
    """The sizes in a config.json. Raises ValueError for a field that would make another model."""
    stated = _json(path)
    for field, value in FIXED.items():
        if stated.get(field, value) != value:
            raise ValueError(f"GPT-2 has {field}={value!r}: {path} has {stated[field]!r:.80}.")
    sizes = {}
    for ours, (field, other) in SIZES.items():
        size = sizes[ours] = stated.get(field)
        if type(size) is not int or size < 1 or stated.get(other, size) != size:
            raise ValueError(
                f"{field} must be a whole number of at least 1, and {other} the same if it is "
                f"there: {path} has {size!r:.80} and {stated.get(other)!r:.80}."
            )
    if stated.get("n_inner") not in (None, 4 * sizes["n_embd"]):
        raise ValueError(
            f"n_inner must be null or 4·n_embd: {path} has {stated['n_inner']!r:.80} with "
            f"n_embd={sizes['n_embd']}."
        )
    for field in ("auto_map", "quantization_config", "pruned_heads"):
        if stated.get(field):
            raise ValueError(f"GPT-2 has no {field}: {path} has {stated[field]!r:.80}.")
    dropout, *others = (stated.get(field, 0.1) for field in DROPOUTS)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1 or others != [dropout] * 2:
        raise ValueError(
            f"{', '.join(DROPOUTS)} must be one probability, at least 0 and under 1: {path} has "
            f"{[dropout, *others]!r:.80}."
        )
    return GPTConfig(**sizes, dropout=float(dropout))


def _files(folder: Path) -> list[Path]:
    """The files with a folder's weights; safetensors if there are both kinds."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = _json(index).get("weight_map")
            shards = list(places.values()) if isinstance(places, dict) else []
            for shard in shards or [None]:
                beside = isinstance(shard, str) and re.fullmatch(r"[\w-][\w.-]*", shard)
                if not beside or Path(shard).suffix != Path(name).suffix:
                    raise ValueError(f"{index} must name files beside it: got {shard!r:.80}.")
                if not (folder / shard).is_file():
                    raise ValueError(f"each file that {index} names must be there: {shard} is not.")
            return [folder / shard for shard in sorted(set(shards))]
    raise ValueError(f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin.")


def _read(paths: list[Path]) -> dict[str, Tensor]:
    """The tensors of some files as they are stored, without prefix and without causal masks."""
    stored = {}
    for path in paths:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}
            else:
                tensors = dict(torch.load(path, "cpu", weights_only=True))
        except Exception as error:  # readers of foreign bytes raise almost anything
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{path} is damaged, or not a file of weights ({reason:.300})."
            ) from None
        for name, tensor in tensors.items():
            plain = isinstance(tensor, Tensor) and tensor.is_cpu and tensor.layout == torch.strided
            if not plain or not isinstance(name, str):
                raise ValueError(f"weights are tensors with names: {path} has {name!r:.80}.")
            name = name.removeprefix("transformer.")
            if name in stored:
                raise ValueError(f"a tensor is stored once: {path} has {name:.80} again.")
            if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
                stored[name] = tensor
    return stored


def _model(config: GPTConfig, stored: dict[str, Tensor]) -> GPT:
    """The model with copies of these tensors; each is dropped from stored as it is copied."""
    head, n_params = stored.pop("lm_head.weight", None), sum(t.numel() for t in stored.values())
    if config.n_layer > len(stored) or config.n_params() > 100 * n_params:
        # so far off that even names and shapes for so many might not fit into memory
        raise ValueError(
            f"{config} needs {config.n_params():,} parameters: the weights are {n_params:,} "
            f"numbers in {len(stored)} tensors."
        )
    model, weights = _empty(config), {}
    for name, p in model.named_parameters():
        if name not in stored:
            raise ValueError(f"the weights lack the tensor {name}.")
        tensor, turned = stored.pop(name), name.endswith(TRANSPOSED)
        shape = (p.mT if turned else p).shape
        if tensor.shape != shape or tensor.dtype not in DTYPES:
            raise ValueError(
                f"{name} must be stored as {tuple(shape)} of float32, float16 or bfloat16: got "
                f"{tuple(tensor.shape)} of {tensor.dtype}."
            )
        weights[name] = torch.empty(p.shape, dtype=torch.float32, device="cpu")
        weights[name].copy_(tensor.mT if turned else tensor)
    if stored:
        raise ValueError(f"GPT-2 has no tensor {min(stored):.80}. Is it a model of another kind?")
    wte = weights["wte.weight"]
    if head is not None and not (head.shape == wte.shape and torch.equal(head.float(), wte)):
        raise ValueError("GPT-2's head is its token table: lm_head.weight is not wte.weight.")
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _empty(config: GPTConfig) -> GPT:
    """A model of names and shapes, without weights: none are drawn only to be thrown away."""
    with torch.device("meta"):
        return GPT(config)


def _stored(model: GPT) -> dict[str, Tensor]:
    """The weights by the names and in the shapes that transformers gives them."""
    params = dict(model.named_parameters())
    others = params.keys() ^ dict(_empty(model.config).named_parameters()).keys()
    if others:
        raise ValueError(f"only GPT-2's own parameters can be saved: {min(others)} is another.")
    turned = {name: p.mT if name.endswith(TRANSPOSED) else p for name, p in params.items()}
    return {f"transformer.{name}": t.detach().contiguous() for name, t in turned.items()}


def _described(model: GPT, tokenizer: Tokenizer | None) -> dict:
    """The content of config.json."""
    config = model.config
    eot = tokenizer.eot if tokenizer and tokenizer.special_tokens else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **FIXED,
        **{field: getattr(config, ours) for ours, (field, _) in SIZES.items()},
        "n_ctx": config.block_size,
        "n_inner": None,
        **dict.fromkeys(DROPOUTS, config.dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), eot),
        "dtype": str(model.wte.weight.dtype).removeprefix("torch."),
    }


def _tokenizer_files(tokenizer: Tokenizer, config: GPTConfig) -> dict[str, str]:
    """The files of a tokenizer, by name: OpenAI's two, and the two that transformers adds."""
    special = tokenizer.special_tokens
    vocab = {printable(token): i for i, token in enumerate(tokenizer.tokens)} | special
    if not tokenizer.n_vocab == len(vocab) <= config.vocab_size:
        raise ValueError(
            f"each token needs a name and a row of wte for itself: {tokenizer.n_vocab} tokens "
            f"have {len(vocab)} names and vocab_size={config.vocab_size} rows."
        )
    merges = [f"{printable(a)} {printable(b)}" for a, b in bpe.merges(tokenizer.tokens)]
    by_bytes = {"type": "ByteLevel", "use_regex": True}
    by_bytes |= {"add_prefix_space": False, "trim_offsets": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    complete = {
        "version": "1.0",
        "added_tokens": [
            {"id": special[t], "content": t, "special": True} | flags for t in special
        ],
        "pre_tokenizer": by_bytes,
        "post_processor": by_bytes,
        "decoder": by_bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": config.block_size,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), next(iter(special), None)),
    }
    return {
        "vocab.json": _dump(vocab),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer.json": _dump(complete),
        "tokenizer_config.json": _dump(settings),
    }


def _json(path: Path) -> dict:
    """The object in a JSON file."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(LARGEST_JSON))
        if isinstance(content, dict):
            return content
        error = f"it holds a {type(content).__name__}"
    except (OSError, ValueError, RecursionError) as caught:
        error = caught
    raise ValueError(f"{path} must be a file with a JSON object: {error!s:.200}.")


def _dump(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
