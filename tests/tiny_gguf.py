"""A tiny model file with random weights: a llama with a real vocabulary, in a few dozen milliseconds.

What it writes is nonsense, which is what a format must withstand; loading, the chat template, tokens, the
context and the pace are those of any other model.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPACE = "▁"
#: Beside all bytes and printable characters: pieces as a real vocabulary has them, also across a format's
#: marks.
PIECES = (
    *(SPACE + word for word in ("the", "of", "and", "a", "to", "is", "##", "[[")),
    *(
        "ing",
        "er",
        "in",
        "th",
        "an",
        "tr",
        "ue",
        "fal",
        "se",
        "null",
        "[[",
        "]]",
        "##",
        '":',
        '",',
        '{"',
        "\n\n",
    ),
    *("é", "ü", "ß", "日", "本", "語", "π", "…", "👍"),
)


@dataclass(frozen=True)
class Size:
    """`context` is what the model says it was trained for.

    `end` is added to the scores of the tokens that end a reply: it never ends by chance, or ends at once, or
    with None it ends as its weights have it. With `blank_first` LLGuidance takes no grammar for it.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 16384
    more_pieces: int = 0
    end: Literal["never", "at once"] | None = None
    blank_first: bool = False


#: The tokens that llama.cpp takes as the end of a reply.
ENDS = (2, 260)


def write_tiny_gguf(path: Path, size: Size = Size(), *, seed: int = 0) -> Path:
    """Write the file, and return its path."""
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [("<|im_start|>", kind.CONTROL), ("<|im_end|>", kind.CONTROL)]
    printable = [SPACE, *string.ascii_letters, *string.digits, *string.punctuation]
    more = (f"w{number:x}" for number in range(size.more_pieces))
    tokens += [(piece, kind.NORMAL) for piece in dict.fromkeys([*printable, *PIECES, *more])]

    file = gguf.GGUFWriter(path, "llama")
    file.add_name("Tiny")
    file.add_context_length(size.context)
    file.add_embedding_length(size.width)
    file.add_block_count(size.layers)
    file.add_feed_forward_length(size.width * 2)
    file.add_head_count(size.heads)
    file.add_head_count_kv(size.heads // 2)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(size.width // size.heads)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("llama")
    file.add_token_list([token for token, _ in tokens])
    file.add_token_scores([-float(rank) for rank in range(len(tokens))])
    file.add_token_types([int(kind) for _, kind in tokens])
    file.add_bos_token_id(1)
    file.add_eos_token_id(ENDS[-1])
    file.add_unk_token_id(0)
    file.add_add_space_prefix(size.blank_first)
    file.add_chat_template(CHAT_TEMPLATE)
    _add_weights(file, size, len(tokens), np.random.default_rng(seed))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def _add_weights(file: gguf.GGUFWriter, size: Size, vocabulary: int, random: np.random.Generator) -> None:
    width, shared = size.width, size.width // 2
    shapes = {"token_embd": (vocabulary, width), "output": (vocabulary, width)}
    norms = ["output_norm"]
    for layer in range(size.layers):
        block = f"blk.{layer}."
        norms += [block + "attn_norm", block + "ffn_norm"]
        shapes |= {
            block + "attn_q": (width, width),
            block + "attn_k": (shared, width),
            block + "attn_v": (shared, width),
            block + "attn_output": (width, width),
            block + "ffn_gate": (width * 2, width),
            block + "ffn_up": (width * 2, width),
            block + "ffn_down": (width, width * 2),
        }
    weights = {name: random.standard_normal(shape) * 0.08 for name, shape in shapes.items()}
    if size.end:
        _bias_the_end(weights, 10.0 if size.end == "at once" else -10.0)
    for name, values in weights.items():
        file.add_tensor(f"{name}.weight", values.astype(np.float16))
    for name in norms:
        file.add_tensor(f"{name}.weight", np.ones(width, np.float32))


def _bias_the_end(weights: dict[str, np.ndarray], bias: float) -> None:
    """The first channel is the same for all tokens and no layer changes it, so that it can carry a bias."""
    weights["token_embd"][:, 0] = 1
    for name, values in weights.items():
        if name.endswith(("attn_output", "ffn_down")):
            values[0] = 0
    weights["output"][:, 0] = 0
    weights["output"][ENDS, 0] = bias
