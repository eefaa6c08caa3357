from __future__ import annotations

import torch
from omni_rl.contracts import LoadedModel
from omni_rl_testing.parts import Parts

from {{ cookiecutter.module }} import predict
from {{ cookiecutter.module }}.conformance import AuraFlow


class TestAuraFlow(AuraFlow):
    """The inherited contract tests, with a tiny random pipeline."""

    def test_guidance_adds_a_multiple_of_the_difference(self, parts: Parts) -> None:
        """v_neg + g (v_pos - v_neg); g = 1 uses only the prompt."""
        x, t, conditioning = point(parts.model)
        swapped = {"prompt_embeds": conditioning["negative_prompt_embeds"]}
        with torch.no_grad():
            positive, negative = (
                predict(parts.model, x, t, text, {"guidance_scale": 1.0})["x"] for text in (conditioning, swapped)
            )
            guided = predict(parts.model, x, t, conditioning, {"guidance_scale": 4.0})["x"]
        torch.testing.assert_close(guided, negative + 4.0 * (positive - negative))
        assert not torch.equal(positive, negative)


def point(model: LoadedModel) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
    """Latents, timesteps and embeddings of two rows."""
    generator = torch.Generator().manual_seed(0)
    width = model.pipe.transformer.config.joint_attention_dim
    embeds = {name: torch.randn(2, 5, width, generator=generator) for name in ("prompt", "negative_prompt")}
    x = torch.randn(2, 4, 8, 8, generator=generator)
    return {"x": x}, torch.tensor([700.0, 250.0]), {f"{name}_embeds": value for name, value in embeds.items()}
