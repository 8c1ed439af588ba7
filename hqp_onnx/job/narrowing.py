"""How narrow a model may be that is trained, in a given time: successive halving that carries weights on.

    probes   a search along the path, each candidate trained for a short while (stage 0)
    walk     stages from 1 on: a candidate beyond the last one admitted, in strides that double while they succeed and
             halve while they do not; one that is refused is trained on, or a wider one begins with what it has learned

So most of the time goes to one line of weights, whose end ships. Candidates are numbered, each narrower than the one
before; number 0 does without training. (Jamieson and Talwalkar 2016, arXiv:1502.07943, for the halving.)
"""

from __future__ import annotations

from collections.abc import Callable

from hqp_onnx.job.search import last_admissible

Admits = Callable[[int, int, "int | None"], bool]
"""(number, stage, the number whose training may be carried on) -> whether this candidate is inside the budget."""


def narrow(search: str, limit: int, last: int, admits: Admits) -> list[tuple[int, int]]:
    """Admitted candidates, the narrowest first, with their stages; number 0 is always among them.

    Args:
        search: by which candidates are probed, see ``search.SEARCHES``.
        limit: the last number.
        last: the last stage.
        admits: trains and judges.
    """
    trained: dict[int, int] = {}
    admitted = {0: last}

    def asked(number: int, stage: int) -> bool:
        others = [other for other in trained if other != number]
        longest = max(others, key=lambda other: (trained[other], -abs(other - number)), default=None)
        trained[number] = stage
        if not admits(number, stage, longest):
            return False
        admitted[number] = stage
        return True

    low, stride = last_admissible(search, limit, 1, lambda number: asked(number, 0)), 1
    for stage in range(1, last + 1):
        number = min(low + stride, limit)
        if number == low:
            break
        if asked(number, stage):
            low, stride = number, 2 * stride
        else:
            stride = max(1, stride // 2)
    return [(number, admitted[number]) for number in sorted(admitted, reverse=True)]
