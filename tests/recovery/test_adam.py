"""The optimizer and its learning rate against torch's."""

import numpy as np
import pytest

from hqp_onnx.recovery.adam import WARM_UP, Adam, cosine

torch = pytest.importorskip("torch")


def test_steps_are_those_of_torch():
    rng = np.random.default_rng(0)
    start = rng.standard_normal(50).astype(np.float32)
    mine, theirs = start.copy(), torch.from_numpy(start.copy()).requires_grad_()
    adam, other = Adam.zeros(50), torch.optim.Adam([theirs], lr=1.0)
    for step in range(40):
        gradient = (rng.standard_normal(50) * 10.0 ** rng.integers(-4, 4, 50)).astype(np.float32)
        rate = 10.0 ** -(1 + step % 3)
        adam.update(mine, gradient, rate)
        other.param_groups[0]["lr"] = rate
        theirs.grad = torch.from_numpy(gradient)
        other.step()
    np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=2e-6, atol=2e-6)
    assert adam.step == 40
    assert not np.allclose(mine, start)


def test_the_rate_is_linear_then_the_cosine_of_torch():
    steps, peak = 200, 0.3
    warm = int(WARM_UP * steps)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=peak)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warm)
    want = [peak * (step + 1) / warm for step in range(warm)]
    for _ in range(steps - warm):
        want.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [cosine(step, steps, peak) for step in range(steps)] == pytest.approx(want, abs=1e-12)
    assert cosine(0, 1, peak) == peak
