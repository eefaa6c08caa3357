"""Engines that do not sample from the trained weights, and rewards that nothing can be learned from."""

from __future__ import annotations

from textwrap import dedent

import pytest


def mostly_slow(faults: dict[str, object], *first: str) -> list[object]:
    """The names of faults; those that are not among ``first`` wait for the slower tier."""
    return [pytest.param(name, marks=() if name in first else pytest.mark.ci) for name in faults]


ENGINES = {
    "weights of its own": (
        """
        class Faulty(EmbeddedEngine):
            def __init__(self, context):
                super().__init__(context)
                self._model = copy.copy(self._model)
                self._model.pipe = copy.deepcopy(self._model.pipe)
        """,
        {"weights": "changing the weights changes no sample: the engine samples with other weights"},
    ),
    "all adapters but one": (
        """
        class Faulty(EmbeddedEngine):
            def completed(self):
                layer = self._model.pipe.transformer.transformer_blocks[0].attn.to_v
                layer._disable_adapters = True
                yield from list(super().completed())
                layer._disable_adapters = False
        """,
        {"weights": r"they then differ from the trainer's by .* \(0 before\): some weights do not reach the engine"},
    ),
    "weights that never come back": (
        """
        class Faulty(EmbeddedEngine):
            def sync(self, policy_version, weights):
                self.syncs = getattr(self, "syncs", 0) + 1
                if self.syncs == 2:  # the first one brings the initial weights
                    self.frozen = {n: p.detach().clone() for n, p in self._model.parameters().items()}
                return super().sync(policy_version, weights)

            def completed(self):
                kept = {n: p.data for n, p in self._model.parameters().items()}
                for n, p in self._model.parameters().items():
                    p.data = getattr(self, "frozen", kept)[n]
                yield from list(super().completed())
                for n, p in self._model.parameters().items():
                    p.data = kept[n]
        """,
        {"weights": "but restoring them leaves a difference of"},
    ),
    "a receipt that lacks a weight": (
        """
        class Faulty(EmbeddedEngine):
            def sync(self, policy_version, weights):
                landed = dict(super().sync(policy_version, weights).landed)
                landed.pop("transformer.transformer_blocks.1.attn.to_k.lora_B.default.weight")
                return SyncReport(policy_version, landed)
        """,
        {"weights": "1 weights do not reach the engine, e.g. transformer.transformer_blocks.1.attn.to_k.lora_B"},
    ),
    "an old version": (
        """
        class Faulty(EmbeddedEngine):
            def sync(self, policy_version, weights):
                return SyncReport(policy_version - 1, super().sync(policy_version, weights).landed)
        """,
        {"weights": "the engine reports policy version -1 after a sync to 0"},
    ),
    "a model and a text of its own": (
        """
        from dataclasses import replace

        class Faulty(EmbeddedEngine):
            supplies = frozenset({"predict"})

            def submit(self, requests):
                self.asked = {r.sample_id: r for r in requests}
                super().submit([replace(r, prompt=r.prompt + " a") for r in requests])

            def completed(self):
                for sample in super().completed():
                    yield replace(sample, request=self.asked[sample.request.sample_id])
        """,
        {"sampler": "the engine sampled with other text than the trainer: .* differs"},
    ),
    "a model of its own that is a percent off": (
        """
        class Faulty(EmbeddedEngine):
            supplies = frozenset({"predict"})

            def completed(self):
                for sample in super().completed():
                    sample.trajectory["latents", "x", "final"] *= 1.01
                    yield sample
        """,
        {
            "sampler": r"for the same keys, the engine's samples differ from the trainer's by 0.01 "
            r"\(at most 0.0001 is allowed\)"
        },
    ),
    "the trajectory of another sample": (
        """
        class Faulty(EmbeddedEngine):
            def completed(self):
                samples = list(super().completed())
                for sample, other in zip(samples, [s.trajectory.clone() for s in reversed(samples)]):
                    for name in ("uid", "sample_id"):
                        other[name] = sample.trajectory[name]
                    yield type(sample)(sample.request, other)
        """,
        {
            "pairing": r"the engine gave sample \d+ the trajectory of sample \d+ \(6 of 6 samples",
            "transition": "differs from the stored latents",
        },
    ),
    "the media of another sample": (
        """
        class Faulty(EmbeddedEngine):
            def completed(self):
                samples = list(super().completed())
                media = [s.trajectory["media"].clone() for s in samples]
                for sample, other in zip(samples, media[1:] + media[:1]):
                    sample.trajectory["media"] = other
                    yield sample
        """,
        {"media": r"the engine gave sample \d+ the image of sample \d+ \(6 of 6 samples"},
    ),
    "no local hooks": (
        """
        class Faulty(EmbeddedEngine):
            honours = frozenset()

        @hookimpl
        def decode_latents(model, latents, call):
            return qwen.decode_latents(model=model, latents=latents, call=call)
        """,
        {"hooks": "the engine does not call decode_latents, .*, but a plugin of this run overrides it"},
    ),
}


@pytest.mark.parametrize("name", mostly_slow(ENGINES, "weights of its own", "all adapters but one", "no local hooks"))
def test_an_engine_with(name, assert_red):
    source, sentences = ENGINES[name]
    declaration = '\nOMNI_RL = {"engines": {"faulty": Faulty}}\n'
    assert_red(sentences, fault=dedent(source) + declaration, rollout={"engine": "faulty"})


REWARDS = {
    "the same for all": (
        "return [0.5] * len(batch.media)",
        "all 6 samples have the reward 0.5: there is no signal to learn",
    ),
    "the place in the batch": (
        "return [float(i) for i in range(len(batch.media))]",
        "reversing the batch changes a reward by [0-9.]+: it depends on the position in the batch",
    ),
    "NaN": ("return [float('nan')] * len(batch.media)", "reward 'python' returned nan, which is not a finite number"),
    "no value": (
        "return [None] * len(batch.media)",
        "a reward returned None for a sample of the prompt 'a sign that says 7'|'hello world'",
    ),
    "an exception": ("return 1 / 0", r"(?s)reward 'python'.*ZeroDivisionError.*reward\.py"),
    "too few": ("return [1.0]", "reward 'python' returned 1 scores for 6 samples"),
}


@pytest.mark.parametrize("name", mostly_slow(REWARDS, "the same for all", "the place in the batch", "an exception"))
def test_a_reward_that_returns(name, assert_red, tmp_path):
    body, sentence = REWARDS[name]
    (tmp_path / "reward.py").write_text(f"def score(batch):\n    {body}\n")
    assert_red({"rewards": sentence}, reward={"name": "python", "file": str(tmp_path / "reward.py")})


def test_a_reward_that_is_rare_is_looked_for_in_a_whole_iteration(judged, tmp_path):
    """Six samples score alike; among the iteration's others there is one that does not."""
    (tmp_path / "reward.py").write_text("def score(batch):\n    return [float(m['uid'] > 1) for m in batch.metadata]\n")
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "sign {i}", "uid": {i}}}\n' for i in range(4)))
    rows = judged(
        rollout={"prompts": 4},
        data={"path": str(tmp_path / "prompts.jsonl"), "shuffle": False},
        reward={"name": "python", "file": str(tmp_path / "reward.py")},
    )
    assert rows["rewards"].verdict == "ok"
    assert rows["rewards"].detail == "finite, 0 to 1 over 12 samples, independent of the order"
