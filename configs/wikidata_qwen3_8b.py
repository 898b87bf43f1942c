"""PretrainRL's Wikidata knowledge infusion with Qwen3-8B-Base (arXiv 2602.01875). What is not said here is
as in popqa_qwen3_8b.py.

    python -m pretrainrl_jax.main --config configs/wikidata_qwen3_8b.py

It reads the Hugging Face folder `Qwen3-8B-Base` and the facts in `triples.jsonl`;
--model.path and --facts.path name others.

`triples.jsonl` has one triple a line, as {"subject": "Arno", "property": "capital", "object":
"Florence"}; CSV, Parquet and the rest do as well (docs/facts.md). The paper's six
relations: capital 421, industry 4,000, location 4,000, material 4,000, color 3,627, shape 342. A
subject with several objects becomes one question to which all of them are true, and the first is
trained.

Hardware: 8 GPUs of 80 GB (the paper: 8 x H800) or 8 TPU chips of 95 GB. Expected hours: under 1.5
for all five systems, estimated as in popqa_qwen3_8b.py. Not measured.

The paper's: the question template, learning rate 3e-5. Ours: the data x 3 as for PopQA, since the
paper does not say.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import FactsConfig

popqa = runpy.run_path(str(Path(__file__).with_name("popqa_qwen3_8b.py")))["config"]
config = replace(
    popqa,
    name="Wikidata knowledge infusion",
    facts=FactsConfig(path="triples.jsonl", questions=("What is the {p} of {s}?",), holdout_every=0),
)
