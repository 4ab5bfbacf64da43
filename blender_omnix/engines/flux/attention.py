# SPDX-License-Identifier: GPL-3.0-or-later
"""Cross-adapter attention (OmniX, arXiv 2510.26800): each element of the batch sees all others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb


class CrossAdapterAttnProcessor:
    """Attention processor for a FLUX transformer whose batch is one scene in several modalities.

    Projections, norms and rotary embedding work per element; the attention itself is plain
    self-attention over the concatenated sequence, [B, S, H, D] seen as [1, B S, H, D], without a
    mask. All elements share one set of positions.
    """

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Attend over `hidden_states` (B, S, C); double blocks pass their text (B, T, C) apart.

        Returns what the block takes: (B, S, C), or image and text apart.
        """
        if attention_mask is not None:
            raise ValueError("cross-adapter attention takes no mask")

        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (attn.heads, -1))

        query = attn.norm_q(heads(attn.to_q(hidden_states)))
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))

        if encoder_hidden_states is not None:
            text_query = attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states)))
            text_key = attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states)))
            text_value = heads(attn.add_v_proj(encoder_hidden_states))
            query = torch.cat([text_query, query], dim=1)
            key = torch.cat([text_key, key], dim=1)
            value = torch.cat([text_value, value], dim=1)

        if image_rotary_emb is not None:
            query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
            key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)

        attended = _joint_attention(query, key, value).flatten(2)

        if encoder_hidden_states is None:
            return attended
        text, image = attended.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        to_out, dropout = attn.to_out
        return dropout(to_out(image)), attn.to_add_out(text)


def _joint_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Self-attention over the batch laid end to end; all (B, S, H, D), as is the result."""
    one, two, three = (x.flatten(0, 1).transpose(0, 1)[None] for x in (query, key, value))
    attended = F.scaled_dot_product_attention(one, two, three)
    return attended[0].transpose(0, 1).unflatten(0, query.shape[:2])
