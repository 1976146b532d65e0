"""A tiny llama with a real vocabulary and random weights: it writes nonsense, and runs as any other model."""

import string

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
#: The matrices of a layer, in units of the width.
SHAPES = {
    "attn_q": (1, 1), "attn_k": (0.5, 1), "attn_v": (0.5, 1), "attn_output": (1, 1),
    "ffn_gate": (2, 1), "ffn_up": (2, 1), "ffn_down": (1, 2),
}  # fmt: skip


def write_tiny_gguf(path, *, layers=2, context=16384, ends=True):
    """Write the file: a model trained for `context` tokens, whose replies may end by chance or never."""
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [("<|im_start|>", kind.CONTROL), ("<|im_end|>", kind.CONTROL)]
    tokens += [(piece, kind.NORMAL) for piece in dict.fromkeys([*PIECES.split(), "\n\n", *PRINTABLE])]

    file = gguf.GGUFWriter(path, "llama")
    facts = {
        "context_length": context, "embedding_length": WIDTH, "block_count": layers,
        "feed_forward_length": WIDTH * 2, "head_count": HEADS, "head_count_kv": HEADS // 2,
        "layer_norm_rms_eps": 1e-5, "rope_dimension_count": WIDTH // HEADS, "vocab_size": len(tokens),
        "bos_token_id": 1, "eos_token_id": ENDS[-1], "unk_token_id": 0, "tokenizer_model": "llama",
        "token_list": [token for token, _ in tokens], "token_types": [int(kind) for _, kind in tokens],
        "token_scores": [-float(rank) for rank in range(len(tokens))],
        "add_space_prefix": False, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    for name, fact in facts.items():
        getattr(file, f"add_{name}")(fact)
    for name, values in weights(layers, len(tokens), ends=ends).items():
        file.add_tensor(f"{name}.weight", values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def weights(layers, vocabulary, *, ends):
    random = np.random.default_rng(0)
    found = {"output_norm": np.ones(WIDTH, np.float32)}
    shapes = {"token_embd": (vocabulary, WIDTH), "output": (vocabulary, WIDTH)}
    for layer in range(layers):
        found |= {f"blk.{layer}.{name}_norm": np.ones(WIDTH, np.float32) for name in ("attn", "ffn")}
        for name, (rows, columns) in SHAPES.items():
            shapes[f"blk.{layer}.{name}"] = (int(rows * WIDTH), columns * WIDTH)
    for name, shape in shapes.items():
        found[name] = (random.standard_normal(shape) * 0.08).astype(np.float16)
        if not ends and name.endswith(("attn_output", "ffn_down")):
            found[name][0] = 0
    if not ends:  # the first channel is the same for all tokens and no layer changes it: it carries a bias
        found["token_embd"][:, 0] = 1
        found["output"][:, 0] = 0
        found["output"][ENDS, 0] = -10
    return found
