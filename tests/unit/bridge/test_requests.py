"""Which request has sampled which tokens of a sample."""

import numpy
import pytest

from vespo_openrlhf.bridge.events import SampleLimits
from vespo_openrlhf.bridge.samples.requests import Answered, RequestLog, join_spans
from vespo_openrlhf.bridge.samples.sample import Sample

P, FEEDBACK = [1, 2], [3, 4]


def sample(version: int = 0) -> Sample:
    return Sample(version, SampleLimits(60.0, 60.0))


def log_of(*requests: Answered, living: tuple[Sample, ...]) -> RequestLog:
    log = RequestLog()
    for each in living:
        log.begin(each)
    for request in requests:
        log.add(request)
    return log


def answered(name: str, prompt: list[int], tokens: list[int], *spans, of=None) -> Answered:
    return Answered(name, prompt, tokens, spans or ((0, len(tokens)),), None, of)


def test_the_turns_of_a_sample_are_found_whoever_asked() -> None:
    """As an executor's own server asks: of no sample, and for two at once."""
    one, other = sample(), sample()
    log = log_of(
        answered("a", P, [8, 9], (0, 2)),
        answered("b", P, [8, 7], (0, 1), (1, 1)),
        answered("c", [*P, 8, 7, *FEEDBACK], [6], (2, 1)),
        answered("d", [*P, 8, 9, *FEEDBACK], [6], (1, 1)),
        living=(one, other),
    )
    of_one = log.claim(one, [*P, 8, 7, *FEEDBACK, 6], [(2, 4), (6, 7)])
    assert of_one.spans == ((0, 1), (1, 1), (2, 1))
    assert of_one.request_ids == ("b", "c")
    of_other = log.claim(other, [*P, 8, 9, *FEEDBACK, 6], [(2, 4), (6, 7)])
    assert of_other.spans == ((0, 2), (1, 1))
    assert of_other.request_ids == ("a", "d")
    assert of_one.unknown == of_other.unknown == 0


def test_of_equal_answers_a_sample_takes_its_own() -> None:
    one, other = sample(), sample()
    requests = [answered("a", P, [8], (0, 1), of=one), answered("b", P, [8], (1, 1), of=other)]
    for first, second in ((one, other), (other, one)):
        log = log_of(*requests, living=(one, other))
        names = {each: log.claim(each, [*P, 8], [(2, 3)]).request_ids for each in (first, second)}
        assert names == {one: ("a",), other: ("b",)}


def test_an_answer_is_claimed_once() -> None:
    one, other = sample(), sample()
    log = log_of(answered("a", P, [8], (2, 1)), living=(one, other))
    assert log.claim(one, [*P, 8], [(2, 3)]).request_ids == ("a",)
    late = log.claim(other, [*P, 8], [(2, 3)])
    assert (late.request_ids, late.unknown, late.spans) == ((), 1, ((0, 1),))


def test_no_answer_is_older_than_the_sample_that_claims_it() -> None:
    """Two of one prompt that answer alike, begun before and after an update, by way of a server:
    versions from before its dispatch are refused, and with them the run."""
    early, late = sample(0), sample(1)
    log = log_of(answered("a", P, [8], (0, 1)), answered("b", P, [8], (1, 1)), living=(early, late))
    assert log.claim(late, [*P, 8], [(2, 3)]).spans == ((1, 1),)
    assert log.claim(early, [*P, 8], [(2, 3)]).spans == ((0, 1),)


@pytest.mark.parametrize(
    ("tokens", "ranges", "spans", "unknown"),
    [
        ([*P, 8, 9, 7], [(2, 5)], ((1, 1), (2, 2)), 0),  # two answers in one range
        ([*P, 8, 9, 7], [(2, 4), (4, 5)], ((1, 1), (2, 2)), 0),  # no token between them
        ([*P, 8, *FEEDBACK], [(2, 3)], ((1, 1),), 0),  # the executor has cut it off
        ([*P, 8, 5], [(2, 4)], ((0, 2),), 2),  # and written something else
        ([1, 8, 9], [(1, 3)], ((0, 2),), 2),  # or left out what it was asked with
        ([*P, 8, 9, 7, 5], [(2, 6)], ((0, 1), (1, 1), (2, 2)), 1),
        ([*P, 8, 9], [], ((0, 0),), 0),
        ([*P, 8, 9], [(4, 4)], ((0, 0),), 0),
    ],
)
def test_what_an_executor_makes_of_the_answers(tokens, ranges, spans, unknown) -> None:
    """What nobody has sampled is as old as it can be: the bound on the lag holds all the same."""
    one = sample(version=0)
    log = log_of(
        answered("a", P, [8, 9], (1, 1), (2, 1)),
        answered("b", [*P, 8, 9], [7], (2, 1)),
        living=(one,),
    )
    origin = log.claim(one, tokens, ranges)
    assert (origin.spans, origin.unknown) == (spans, unknown)


def test_what_nobody_can_claim_any_more_is_forgotten() -> None:
    log, early = RequestLog(), sample()
    log.add(answered("before", P, [8]))
    assert not log._answered
    log.begin(early)
    log.add(answered("a", P, [8]))
    late = sample()
    log.begin(late)
    log.add(answered("b", P, [8]))
    log.end(early)
    assert [request.request_id for request in log._numbers] == ["b"]
    log.end(late)
    assert not log._answered
    assert not log._numbers


@pytest.mark.parametrize(
    ("spans", "joined"),
    [
        ([(0, 0), (0, 5)], ((0, 5),)),
        ([(0, 3), (0, 5)], ((0, 8),)),
        ([(0, 3), (2, 1), (2, 4), (4, 6)], ((0, 3), (2, 5), (4, 6))),
        ([(0, 3), (2, 0)], ((0, 3),)),
        ([], ()),
    ],
)
def test_spans_of_turns_are_those_of_one_response(spans, joined) -> None:
    assert join_spans(spans) == joined


@pytest.mark.parametrize(
    ("prompts", "tokens", "rows"),
    [
        # The first turn's tokens keep theirs; what it sampled last passes through them in the next.
        ([P, [*P, 8, 9, 3]], [*P, 8, 9, 3, 8, 9], "000111"),
        ([P, [*P, 8, 9, 3]], [*P, 8, 9, 3, 8, 9, 4], "000111"),
        ([P, [*P, 8, 3]], [*P, 8, 3, 8, 9], "00011"),  # cut off by the executor
        ([P], [*P, 8, 9], "000"),
        ([P], [*P, 8], "00"),
    ],
)
def test_experts_are_those_of_the_tokens_that_are_trained(prompts, tokens, rows) -> None:
    """Every token took the expert of its own number, in the layer of its request."""
    one = sample()
    log = RequestLog()
    log.begin(one)
    for layer, prompt in enumerate(prompts):
        told = numpy.zeros((len(prompt) + 1, 4, 1), dtype=numpy.uint8)
        told[:, layer, 0] = [*prompt, 8]
        log.add(Answered(str(layer), prompt, [8, 9], ((0, 2),), told))
    ends = [len(prompt) for prompt in prompts]
    cuts = [*(len(prompt) - 1 for prompt in prompts[1:]), len(tokens)]
    ranges = [(end, min(end + 2, cut)) for end, cut in zip(ends, cuts, strict=True)]
    found = log.claim(one, tokens, ranges)
    expected = numpy.zeros((len(rows), 4, 1), dtype=numpy.uint8)
    for place, layer in enumerate(rows):
        expected[place, int(layer), 0] = tokens[place]
    assert found.routed_experts.tolist() == expected.tolist()
