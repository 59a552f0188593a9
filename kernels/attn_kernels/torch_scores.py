"""Scores of queries against keys that lie scattered in a paged cache, in plain torch.

On a CPU the keys are brought together a block at a time, small enough that the product finds them in the core's own
cache, and always in the same memory: gathering a whole layer first would send every key through main memory three times
and fault its pages in anew. Shapes as in `attn_kernels.torch_ops`.
"""

from __future__ import annotations

import torch

_BLOCK = 1 << 18
"""Numbers gathered at once on a CPU: 1 MiB of float32."""


class GatheredKeys:
    """Where the keys of some requests lie, int [B, n] (or [1, n]); what is worked out once serves all layers."""

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots
        self._index: dict[int, torch.Tensor] = {}
        self._room: torch.Tensor | None = None

    def gather(self, cache: torch.Tensor, *, start: int, end: int) -> torch.Tensor:
        """float32 [end - start, Hkv, n, D] from a key cache [slots, Hkv, D]; good until the next call.

        `index_select` over rows of one head: on a CPU nine times as fast as indexing, and the product needs no copy.
        """
        num_slots, num_kv_heads, dim = cache.shape
        index = self._rows(num_kv_heads)[start:end].view(-1)
        flat = cache.reshape(num_slots * num_kv_heads, dim)
        if cache.dtype == torch.float32:
            keys = torch.index_select(flat, 0, index, out=self._taken(len(index) * dim).view(-1, dim))
        elif cache.element_size() == 1:  # torch selects no rows of 8-bit floats on a CPU; of bytes it does
            keys = flat.view(torch.uint8).index_select(0, index).view(cache.dtype).float()
        else:
            keys = flat.index_select(0, index).float()
        return keys.view(end - start, num_kv_heads, self.slots.shape[1], dim)

    def _rows(self, num_kv_heads: int) -> torch.Tensor:
        """int64 [B, Hkv * n], the row of each head's key."""
        if num_kv_heads not in self._index:
            head = torch.arange(num_kv_heads, device=self.slots.device)[:, None]
            rows = self.slots[:, None, :].long() * num_kv_heads + head
            self._index[num_kv_heads] = rows.view(len(self.slots), -1)
        return self._index[num_kv_heads]

    def _taken(self, numel: int) -> torch.Tensor:
        if self._room is None or self._room.numel() < numel:
            self._room = torch.empty(numel, device=self.slots.device)
        return self._room[:numel]


def attention_scores(query: torch.Tensor, cache: torch.Tensor, *, places: GatheredKeys) -> torch.Tensor:
    """float32 [B, H, n], the products of float32 queries [B, H, D] and the keys at their places in `cache`."""
    batch, heads, dim = query.shape
    num_requests, n = places.slots.shape
    num_kv_heads = cache.shape[1]
    if num_requests != batch:  # the queries of one prompt: all of a key head's in one product
        keys = places.gather(cache, start=0, end=1)[0]
        grouped = query.view(batch, num_kv_heads, -1, dim).transpose(0, 1).reshape(num_kv_heads, -1, dim)
        scores = torch.matmul(grouped, keys.transpose(1, 2)).view(num_kv_heads, batch, -1, n)
        return scores.transpose(0, 1).reshape(batch, heads, n)
    scores = torch.empty(batch, heads, n, device=query.device)
    step = max(1, _BLOCK // (num_kv_heads * n * dim)) if query.device.type == "cpu" else batch
    for start in range(0, batch, step):
        end = min(batch, start + step)
        keys = places.gather(cache, start=start, end=end).view(-1, n, dim)
        grouped = query[start:end].reshape(len(keys), -1, dim)
        torch.bmm(grouped, keys.transpose(1, 2), out=scores[start:end].view(len(keys), -1, n))
    return scores
