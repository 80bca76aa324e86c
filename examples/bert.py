"""Our attention inside a BERT that we did not write: same answers, and padding is not computed.

python examples/bert.py        needs transformers
"""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from robustmdiff.nn import register_with_transformers
from robustmdiff.ops import register_flops

register_with_transformers()
register_flops()


def bert(attn_implementation: str) -> BertModel:
    torch.manual_seed(0)  # the same weights twice; with a trained BERT: BertModel.from_pretrained(path, ...)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        attn_implementation=attn_implementation,
    )
    return BertModel(config).eval()


lengths = torch.tensor([60, 12, 5, 3])
attention_mask = (torch.arange(60) < lengths[:, None]).long()
batch = {"input_ids": torch.randint(1000, (4, 60)), "attention_mask": attention_mask}

theirs, ours = bert("sdpa"), bert("robustmdiff")
with torch.no_grad():
    expected, found = (model(**batch).last_hidden_state[attention_mask.bool()] for model in (theirs, ours))
torch.testing.assert_close(found, expected)
print(f"greatest difference to SDPA on {len(found)} tokens: {(found - expected).abs().max():.1e}")


def attention_products(attention_mask: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ours(input_ids=batch["input_ids"], attention_mask=attention_mask)
    return sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" in str(op))


share = attention_products(attention_mask) / attention_products(torch.ones_like(attention_mask))
print(f"keys in the padding are skipped: {share:.0%} of the products of a batch without padding")
