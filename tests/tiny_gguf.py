"""A tiny model file with random weights: a llama with a real vocabulary, in a few dozen milliseconds.

What it writes is nonsense, which is what a format must withstand; loading, the chat template, tokens, the
context and the pace are those of any other model.
"""

from __future__ import annotations

import string
from pathlib import Path

import gguf
import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Beside all bytes and printable characters: pieces as a real vocabulary has them, also across a format's
#: marks. The first stands for a blank.
PIECES = '▁ ▁the ▁of ▁and ▁a ▁to ▁is ▁## ▁[[ ing er in th an tr ue fal se null [[ ]] ## ": ", {"'
PRINTABLE = "éüß日本語π…👍" + string.ascii_letters + string.digits + string.punctuation
#: The tokens that llama.cpp takes as the end of a reply.
ENDS = (2, 260)
WIDTH, HEADS = 64, 4


def write_tiny_gguf(path: Path, *, layers: int = 2, context: int = 16384, ends: bool = True) -> Path:
    """Write the file, and return its path.

    Args:
        context: What the model says it was trained for.
        ends: Whether a reply may end by chance.
    """
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [("<|im_start|>", kind.CONTROL), ("<|im_end|>", kind.CONTROL)]
    tokens += [(piece, kind.NORMAL) for piece in dict.fromkeys([*PIECES.split(), "\n\n", *PRINTABLE])]

    file = gguf.GGUFWriter(path, "llama")
    file.add_name("Tiny")
    numbers = {
        "context_length": context, "embedding_length": WIDTH, "block_count": layers,
        "feed_forward_length": WIDTH * 2, "head_count": HEADS, "head_count_kv": HEADS // 2,
        "layer_norm_rms_eps": 1e-5, "rope_dimension_count": WIDTH // HEADS, "vocab_size": len(tokens),
        "bos_token_id": 1, "eos_token_id": ENDS[-1], "unk_token_id": 0,
    }  # fmt: skip
    for name, number in numbers.items():
        getattr(file, f"add_{name}")(number)
    file.add_tokenizer_model("llama")
    file.add_token_list([token for token, _ in tokens])
    file.add_token_scores([-float(rank) for rank in range(len(tokens))])
    file.add_token_types([int(kind) for _, kind in tokens])
    file.add_add_space_prefix(False)
    file.add_chat_template(CHAT_TEMPLATE)
    _add_weights(file, layers, len(tokens), ends=ends)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def _add_weights(file: gguf.GGUFWriter, layers: int, vocabulary: int, *, ends: bool) -> None:
    shapes = {"token_embd": (vocabulary, WIDTH), "output": (vocabulary, WIDTH)}
    norms = ["output_norm"]
    of_block = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH // 2, WIDTH),
        "attn_v": (WIDTH // 2, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (WIDTH * 2, WIDTH),
        "ffn_up": (WIDTH * 2, WIDTH),
        "ffn_down": (WIDTH, WIDTH * 2),
    }
    for layer in range(layers):
        norms += [f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"]
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in of_block.items()}
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape) * 0.08 for name, shape in shapes.items()}
    if not ends:  # the first channel is the same for all tokens and no layer changes it: it carries a bias
        weights["token_embd"][:, 0] = 1
        for name, values in weights.items():
            if name.endswith(("attn_output", "ffn_down")):
                values[0] = 0
        weights["output"][:, 0] = 0
        weights["output"][ENDS, 0] = -10
    for name, values in weights.items():
        file.add_tensor(f"{name}.weight", values.astype(np.float16))
    for name in norms:
        file.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
