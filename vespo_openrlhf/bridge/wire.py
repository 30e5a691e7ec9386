"""Samples on their way between processes: engine to driver, driver to data-parallel ranks.

An `Experience` of OpenRLHF is some thirty small tensors, and pickling one of them costs as much as
pickling a thousand numbers. So each of these classes pickles as what its tensors say, numbers and
bytes, every integer in as few bits as it takes; what comes out is equal to what went in, element
types and all.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy
import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience, remove_padding_in_sequences
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from vespo_openrlhf.bridge.errors import StoppedError
from vespo_openrlhf.recorded.schema import Turns
from vespo_openrlhf.scheduling.lag import Spans

#: The experts of a sample's tokens, see `response.to_rows`; a reference where they are large; None
#: where nobody knows.
RoutedExperts: TypeAlias = "torch.Tensor | ray.ObjectRef | None"


@dataclasses.dataclass
class TrainingExperience(Experience):
    """An `Experience` on its way to an update.

    OpenRLHF's own functions make plain ones of it: they know no field but their own.

    Attributes:
        lag: (B,) float32, or 0-dim of a single sample: versions between the sample's oldest token
            and its update; NaN where that is not known.
        routed_experts: of a single sample those to take in training; of a batch a list, with
            tensors for references.
        turns: (B, A) int64, or (A,) of a single sample, see `turns.turn_of_token`; None where the
            loss weighs whole episodes.
        teacher_states: (B, A, E), or (A, E) of a single sample: a teacher's last hidden states
            where each action is predicted; None where its whole distribution is not asked for.
    """

    lag: torch.Tensor | None = None
    routed_experts: RoutedExperts | list[torch.Tensor | None] = None
    turns: torch.Tensor | None = None
    teacher_states: torch.Tensor | None = None


_FIELDS = tuple(field.name for field in dataclasses.fields(Experience))
_TRAINING_FIELDS = tuple(field.name for field in dataclasses.fields(TrainingExperience))
# From this size on, Ray hands a buffer over without a copy.
_BUFFER_BYTES = 2**16

_Encoded = tuple[str, tuple[int, ...], Any, str | None]


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One response on its way to the trainer.

    Attributes:
        experience: OpenRLHF's `Experience` of a batch of one.
        request_ids: what the engine called its requests.
        routed_experts: which its tokens took there.
        parked_bytes: of these, where they are a reference.
        turns: of its episode.
        recorded_spans: the versions of its tokens in the run that recorded it, () where nobody
            knows; None of a sample that this run made, of which the scheduler knows.
    """

    experience: Any
    request_ids: tuple[str, ...]
    routed_experts: RoutedExperts = None
    parked_bytes: int = 0
    turns: Turns = ()
    recorded_spans: Spans | None = None

    @property
    def routed_bytes(self) -> int:
        """Of `routed_experts`, wherever they are."""
        rows = self.routed_experts
        return rows.nbytes if isinstance(rows, torch.Tensor) else self.parked_bytes

    def parked(self) -> Rollout:
        """With large `routed_experts` in Ray's object store, whence the rank that trains the sample
        takes them: the driver keeps rollouts by the thousand, and Ray can put them on a disk.

        Raises:
            StoppedError: neither has room.
        """
        rows = self.routed_experts
        if not isinstance(rows, torch.Tensor) or rows.nbytes < _BUFFER_BYTES:
            return self
        try:
            place = ray.put(rows.numpy())
        except (ObjectStoreFullError, OutOfDiskError) as error:
            # One of Ray's would be taken for the death of the engine that the rollout is from.
            raise StoppedError(
                "Ray's object store has no room for experts of responses that wait, nor has its "
                "disk: give it more (ray start --object-store-memory, --temp-dir), lower "
                "--lag.max or --rollout.batch_size, or leave --moe.routing_replay out. The last "
                "checkpoint is whole: go on from it with --ckpt.load_enable"
            ) from error
        return dataclasses.replace(self, routed_experts=place, parked_bytes=rows.nbytes)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        fields: dict[str, Any] = {}
        for name in _FIELDS:
            value = getattr(self.experience, name)
            if isinstance(value, torch.Tensor):
                fields[name] = _encode(value)
            elif name == "info":
                fields[name] = {key: _encode(tensor) for key, tensor in value.items()}
            else:
                fields[name] = value
        (rows,) = fetched([self.routed_experts])  # in a checkpoint, a reference is none
        encoded = None if rows is None else _encode(rows)
        own = self.request_ids, encoded, self.turns, self.recorded_spans
        return _rollout, (fields, *own)


def _rollout(
    fields: dict[str, Any],
    request_ids: tuple[str, ...],
    rows: _Encoded | None = None,
    turns: Turns = (),  # older checkpoints have none
    recorded_spans: Spans | None = None,  # nor this
) -> Rollout:
    for name, value in fields.items():
        if name == "info":
            fields[name] = {key: _decode(encoded) for key, encoded in value.items()}
        elif isinstance(value, tuple):
            fields[name] = _decode(value)
    experts = None if rows is None else _decode(rows)
    experience = Experience(**fields)
    return Rollout(experience, request_ids, experts, turns=turns, recorded_spans=recorded_spans)


def fetched(routed_experts: Sequence[RoutedExperts]) -> list[torch.Tensor | None]:
    """With what a reference stands for in its place, read-only."""
    places = [i for i, rows in enumerate(routed_experts) if isinstance(rows, ray.ObjectRef)]
    found: list[Any] = list(routed_experts)
    if not places:
        return found  # Ray, asked for nothing, starts a cluster or warns an asynchronous actor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody writes to it
        for place, rows in zip(places, ray.get([found[place] for place in places]), strict=True):
            found[place] = torch.from_numpy(rows)
    return found


class Share:
    """The items of one data-parallel rank; arrives as a list of them.

    Args:
        items: single samples as `mini_batches.to_items` makes them; what pads them on the right
            is left behind.
    """

    def __init__(self, items: Sequence[TrainingExperience]) -> None:
        self.items: list[Any] = remove_padding_in_sequences(
            [dataclasses.replace(item) for item in items]
        )
        for item in self.items:
            for name in ("turns", "teacher_states"):  # of which OpenRLHF's function knows nothing
                if (value := getattr(item, name)) is not None:
                    setattr(item, name, value[: len(item.action_mask)])

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        fields: dict[str, Any] = {}
        for name in _TRAINING_FIELDS:
            values = [getattr(item, name) for item in self.items]
            if name == "routed_experts":
                fields[name] = [_encode(v) if isinstance(v, torch.Tensor) else v for v in values]
            elif isinstance(values[0], torch.Tensor):
                fields[name] = _join(values)
            elif name == "info":
                fields[name] = {key: _join([info[key] for info in values]) for key in values[0]}
            else:
                fields[name] = values
        return _items, (fields, len(self.items))


def _items(fields: dict[str, Any], count: int) -> list[Any]:
    items = [TrainingExperience(info={}) for _ in range(count)]
    for name, value in fields.items():
        if name == "info":
            for key, joined in value.items():
                for item, part in zip(items, _part(joined), strict=True):
                    item.info[key] = part
            continue
        if name == "routed_experts":
            value = [_decode(rows) if isinstance(rows, tuple) else rows for rows in value]
        parts = _part(value) if isinstance(value, tuple) else value
        for item, part in zip(items, parts, strict=True):
            setattr(item, name, part)
    return items


_Joined = tuple[_Encoded, list[int] | None]


def _join(tensors: Sequence[torch.Tensor]) -> _Joined:
    """Vectors of different lengths, or scalars, as one; with the lengths, or None for scalars."""
    if tensors[0].dim() == 0:
        return _encode(torch.stack(list(tensors))), None
    return _encode(torch.cat(list(tensors))), [len(tensor) for tensor in tensors]


def _part(joined: _Joined) -> list[torch.Tensor]:
    encoded, lengths = joined
    whole = _decode(encoded)
    return list(whole.unbind() if lengths is None else whole.split(lengths))


def _encode(tensor: torch.Tensor) -> _Encoded:
    """Element type, shape, elements, and in which type the elements are written (None: a single
    one, as a number)."""
    name, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    if tensor.numel() == 1:
        return name, shape, tensor.item(), None
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.int64 and tensor.numel():
        low, high = (bound.item() for bound in tensor.aminmax())
        for small in (torch.uint8, torch.int32):
            if torch.iinfo(small).min <= low and high <= torch.iinfo(small).max:
                tensor = tensor.to(small)
                break
    elif tensor.dtype == torch.bfloat16:  # which numpy does not know
        tensor = tensor.view(torch.int16)
    array = tensor.numpy()
    small_enough = array.nbytes < _BUFFER_BYTES
    return name, shape, array.tobytes() if small_enough else array, array.dtype.str


def _decode(encoded: _Encoded) -> torch.Tensor:
    name, shape, elements, written = encoded
    dtype: torch.dtype = getattr(torch, name)
    if written is None:
        return torch.full(shape, elements, dtype=dtype)
    if isinstance(elements, bytes):
        elements = numpy.frombuffer(elements, dtype=written)
    tensor = torch.from_numpy(elements.copy()).view(shape)  # a buffer of Ray's is read-only
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor.to(dtype)
