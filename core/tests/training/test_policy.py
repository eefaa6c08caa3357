from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.training.policy import call_of
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import toy_model


@pytest.fixture
def parts() -> Parts:
    return assemble(toy_model())


def batch_with(**call: list[float]) -> TensorDict:
    rows = len(next(iter(call.values())))
    dtypes = {float: torch.float64, int: torch.int64, bool: torch.bool}
    values = {name: torch.tensor(value, dtype=dtypes[type(value[0])]) for name, value in call.items()}
    return TensorDict({"call": values}, batch_size=[rows])


def test_a_sample_is_replayed_with_the_arguments_that_shaped_it():
    """What the trajectory carries wins over the run's, in the type that the pipeline was given; words are the run's."""
    run = {"height": 512, "use_cfg": False, "guidance_scale": 4.5, "mode": "fast"}
    found = call_of(batch_with(height=[16, 16], use_cfg=[True, True], guidance_scale=[0.1, 0.1]), run)
    assert found == {"height": 16, "use_cfg": True, "guidance_scale": 0.1, "mode": "fast"}
    assert type(found["height"]) is int
    assert type(found["use_cfg"]) is bool


def test_rows_of_different_arguments_are_not_replayed_together():
    with pytest.raises(AssertionError, match="mixes values of call/guidance_scale"):
        call_of(batch_with(guidance_scale=[1.0, 4.5]), {})


def test_a_number_of_the_run_that_was_null_in_the_rows_is_the_pipelines_own():
    assert call_of(TensorDict({}, batch_size=[2]), {"guidance_scale": 4.5, "mode": "fast"}) == {"mode": "fast"}


@pytest.mark.parametrize(("run", "row"), [(4, 4.5), (4.5, 4), (True, 0.5), (1, True)])
def test_a_number_keeps_its_type_whatever_the_runs_type_is(run, row):
    stored = trajectory.numeric_call({"guidance_scale": row}, 2)
    found = call_of(TensorDict({"call": stored}, batch_size=[2]), {"guidance_scale": run})["guidance_scale"]
    assert (found, type(found)) == (row, type(row))


def test_inputs_of_a_step_are_what_the_rollout_saw(parts):
    batch = parts.batch()
    for step in range(batch["timesteps"].shape[1]):
        given = parts.hooks.prepare_model_inputs(policy=parts.backend.policy, batch=batch, steps=[step])
        assert torch.equal(given["x"]["x"], batch["latents", "x", "all"][:, step])
        assert torch.equal(given["t"], batch["timesteps"][:, step])
        assert torch.equal(given["conditioning"]["prompt_embeds"], batch["prompt_embeds"])


def test_velocities_may_be_asked_for_off_the_table(parts):
    """Forward-process algorithms need any t, per row: held to the network itself, called row by row in float64."""
    batch = parts.batch()
    x, t = torch.randn(6, 3, 4, 4), torch.tensor([1.5, 999.0, 300.25, 300.25, 0.0, 700.0])
    velocity = parts.backend.policy.predict({"x": x}, t, {"prompt_embeds": batch["prompt_embeds"]})["x"]
    network = type(parts.model.pipe.transformer)().double()
    network.load_state_dict({n: v.double() for n, v in parts.model.pipe.transformer.state_dict().items()})
    for row in range(6):
        alone = network(
            x[row : row + 1].double(), t[row : row + 1].double(), batch["prompt_embeds"][row][None].double()
        )
        torch.testing.assert_close(velocity[row].double(), alone[0][0], rtol=1e-5, atol=1e-6)


def test_changed_sigmas_change_the_replay(parts):
    """The stored sigmas are the ones that count: a replay that recomputed them would not notice."""
    batch = parts.batch()
    changed = batch.clone()
    changed["sigmas"] *= 0.99
    policy = parts.backend.policy
    gap = policy.evaluate(changed, [0])[0].log_prob - policy.evaluate(batch, [0])[0].log_prob
    assert gap.abs().min() > 1e-3


def test_the_public_hook_answers_log_prob_mean_std_and_dt(parts):
    """What callers of the peers' API expect: std_dev_t and sqrt_dt in their meaning, for ``sde``."""
    batch = parts.batch()
    policy, hooks = parts.backend.policy, parts.hooks
    inputs = hooks.prepare_model_inputs(policy=policy, batch=batch, steps=[1])
    log_prob, mean, std_dev_t, sqrt_dt = hooks.forward_and_sample_previous_step(
        policy=policy, batch=batch, model_inputs=inputs, steps=[1]
    )
    sigma, following = batch["sigmas"][:, 1].double(), batch["sigmas"][:, 2].double()
    level = 0.7 * (sigma / (1 - sigma)).sqrt()
    torch.testing.assert_close(std_dev_t["x"].flatten().double(), level, rtol=1e-5, atol=0)
    torch.testing.assert_close(sqrt_dt[:, 0].double(), (sigma - following).sqrt(), rtol=1e-5, atol=0)
    normal = torch.distributions.Normal(
        mean["x"][:, 0].double(), (level * (sigma - following).sqrt()).view(-1, 1, 1, 1)
    )
    expected = normal.log_prob(batch["latents", "x", "all"][:, 2].double()).flatten(1).mean(1)
    torch.testing.assert_close(log_prob[:, 0].double(), expected, rtol=1e-4, atol=1e-4)
