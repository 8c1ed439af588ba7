"""How long a recovery trains, and in which steps: as asked for, or as the data and the time allow.

    epochs    auto: SEEN / n of n samples, MOST at most, FEWEST at least; PATIENT times as many where a time ends them
    batch     auto: twice as large from LARGER samples on, which costs less by the sample
    rate      a cosine over S steps; where T seconds end it first, that of step  max(s, S t / T)  at step s and time t
    rounds    from one judgement to the next: an epoch; with auto or a time, ROUND samples at most
    the end   auto: half of the rest is skipped, again and again, where the loss did not fall over STALE of the way, and
              PATIENCE rounds: its rate is too high, or there is no more to learn

Whatever ends first, the steps or the time, ends at a rate of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from hqp_onnx.recovery.settings import BATCH, Recovery

SEEN, FEWEST, MOST, PATIENT = 200_000, 4, 30, 4
ROUND, PATIENCE, STALE = 10_000, 3, 0.2
LARGER = 4_000


@dataclass(frozen=True)
class Schedule:
    """Of one training.

    Attributes:
        batch: samples per step.
        epoch: steps in which every sample is seen once.
        steps: in all.
        round: steps from one judgement to the next.
        patience: rounds without a better loss that shorten it; 0 for none.
        seconds: that it may take; None for any.
    """

    batch: int
    epoch: int
    steps: int
    round: int
    patience: int = 0
    seconds: float | None = None

    @classmethod
    def of(cls, settings: Recovery, samples: int, part: int = 1) -> Schedule:
        """For so many samples to train on, of which ``part`` at a time are run."""
        batch = max(part, min(batch_for(settings, samples), samples) // part * part)
        epoch = samples // batch
        auto, limited = settings.epochs == "auto", settings.seconds is not None
        return cls(
            batch,
            epoch,
            steps=epochs_for(settings, samples) * epoch,
            round=min(epoch, max(1, ROUND // batch)) if auto or limited else epoch,
            patience=PATIENCE if auto else 0,
            seconds=settings.seconds,
        )

    @property
    def epochs(self) -> int:
        """Passes over the samples."""
        return self.steps // self.epoch


def epochs_for(settings: Recovery, samples: int) -> int:
    """Passes over so many samples to train on."""
    if settings.epochs != "auto":
        return settings.epochs
    whole = min(MOST, max(FEWEST, round(SEEN / samples)))
    return max(1, round(settings.share * whole * (1 if settings.seconds is None else PATIENT)))


def batch_for(settings: Recovery, samples: int) -> int:
    """Samples per step, of so many to train on."""
    if settings.batch is not None:
        return settings.batch
    return 2 * BATCH if settings.epochs == "auto" and samples >= LARGER else BATCH
