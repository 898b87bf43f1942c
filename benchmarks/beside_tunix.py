"""A training step here and by Tunix's `DPOTrainer`, in turn, on the same questions and weights.

    python -m venv tunix && tunix/bin/pip install -r benchmarks/peers/tunix.txt
    python benchmarks/beside_tunix.py --facts popQA.tsv --tokenizer QWEN_FOLDER --python tunix/bin/python
    taskset -c 0 python benchmarks/beside_tunix.py …        # one core

The model of 42M parameters with Qwen's vocabulary, float32, AdamW, one right answer and `--negatives` wrong
ones a question. Tunix has DPO alone, on padded pairs, and computes its references in each step, as its loop
does; ours has references stored by mining, and next-token prediction beside DPO. First the loss of DPO alone
must be the same to 1e-4 on the same pairs, with a reference that is not the model; then they take turns, ours
with `--ours` questions an update: as many as it takes to fill rows.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import torch
from training import BETA, Ours, rows_of, seconds, tell, texts_of, trees_of
from twins import Twins, arguments, twins

SCALED = 0.9  # the reference's last norm, relative to the model's
DPO_ALONE = {"ntp": {}, "dpo": {"weight": 1.0, "beta": BETA}}


class Theirs:
    """Tunix in its own environment, an update for each line."""

    def __init__(self, python: str, both: Twins, trees: list[Any], folder: Path) -> None:
        both.theirs.to(torch.float32).save_pretrained(folder)
        shape = both.theirs.config
        pairs = [(tree.prefix, tree.branches[0], other) for tree in trees for other in tree.branches[1:]]
        given = {
            "folder": str(folder), "beta": BETA, "scaled": SCALED,
            "shape": {
                "num_layers": shape.num_hidden_layers, "vocab_size": shape.vocab_size,
                "embed_dim": shape.hidden_size, "hidden_dim": shape.intermediate_size,
                "num_heads": shape.num_attention_heads, "head_dim": shape.head_dim,
                "num_kv_heads": shape.num_key_value_heads, "norm_eps": shape.rms_norm_eps,
                "rope_theta": int(both.model.shape.rope_theta), "use_tied_embedding": True,
            },
            "prompts": [list(prefix) for prefix, _, _ in pairs],
            "chosen": [list(chosen.tokens) for _, chosen, _ in pairs],
            "rejected": [list(rejected.tokens) for _, _, rejected in pairs],
        }  # fmt: skip
        (folder / "given.json").write_text(json.dumps(given))
        program = Path(__file__).parent / "peers" / "tunix_dpo.py"
        self._process = subprocess.Popen(
            [python, str(program), str(folder / "given.json")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def update(self) -> dict[str, float]:
        """Its seconds, and the loss before it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("Tunix's process ended: what it said stands above")
        return json.loads(line)


def with_other_reference(both: Twins, texts: list[list[str]]) -> list[Any]:
    """Trees whose references are of a model with another last norm."""
    scale = both.params["final_norm"]["scale"] * SCALED
    return trees_of(both._replace(params=both.params | {"final_norm": {"scale": scale}}), texts)


def main() -> None:
    """Compare, then alternate."""
    parser = arguments(__doc__, questions=8)
    parser.add_argument("--python", required=True, help="of an environment with Tunix")
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--ours", type=int, default=70, help="questions of our update")
    parser.add_argument("--row-length", type=int, default=512)
    options = parser.parse_args()
    both = twins(options, max(options.questions, options.ours))
    trees = with_other_reference(both, texts_of(both, options.negatives))
    few = trees[: options.questions]
    found = Ours(both, "token").update(rows_of(few, options.row_length)[0], DPO_ALONE)
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(options.python, both, few, Path(folder))
        wanted = theirs.update()["loss"]  # compiled with it
        assert abs(found - wanted) < 1e-4 * abs(wanted), f"our loss is {found}, theirs {wanted}"
        ours = Ours(both, "sequence")
        batch, full = rows_of(trees[: options.ours], options.row_length)
        ours.update(batch)
        theirs.update()
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.turns):
            rates[0].append(options.ours / seconds(lambda: ours.update(batch)))
            rates[1].append(options.questions / theirs.update()["seconds"])
    print(
        f"both losses of DPO are {wanted:.5f}, {abs(found - wanted):.0e} apart; our rows are {full:.1%} full"
    )
    factors = [a / b for a, b in zip(*rates, strict=True)]
    tell({"ours, questions a second": rates[0], "Tunix": rates[1], "ours is faster by": factors})


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
