"""Nested tensors, xformers masks and padded batches: the same rows, described in three ways.

python examples/jagged.py
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from robustmdiff.nn import MaskedCrossModalAttention
from robustmdiff.ops import masked_attention, segments_from_key_padding, segments_from_nested

lengths = [5, 2, 7]
sequences = [torch.randn(n, 4, 16) for n in lengths]  # 4 heads of 16

# torch.nested: the values lie end to end already
nested = torch.nested.nested_tensor(sequences, layout=torch.jagged)
theirs = scaled_dot_product_attention(*[nested.transpose(1, 2)] * 3).transpose(1, 2).values()
segments, values = segments_from_nested(nested), nested.values()
ours = masked_attention(values, values, values, segments, segments)
torch.testing.assert_close(ours, theirs)
print(f"nested:  segments {segments[:, 0].tolist()}, greatest difference {(ours - theirs).abs().max():.1e}")

# a padded batch and its boolean mask, True in the padding as for torch.nn.MultiheadAttention
padded = nested.to_padded_tensor(torch.nan)  # what is in the padding does not matter
mask = torch.arange(7) >= torch.tensor(lengths)[:, None]
segments, flat = segments_from_key_padding(mask), padded.flatten(0, 1)
out = masked_attention(flat, flat, flat, segments, segments)
torch.testing.assert_close(out[~mask.flatten()], theirs)
print(f"padded:  segments {segments[:, 0].tolist()}, no NaN of the padding in the result")

# xformers: q_segments, k_segments = segments_from_block_diagonal(BlockDiagonalMask.from_seqlens(lengths))

# A layer takes the segments of whatever it is given; the padding is never projected.
layer = MaskedCrossModalAttention(64, heads=4)
print(f"layer:   {list(layer(flat.flatten(1), segments).shape)}")
