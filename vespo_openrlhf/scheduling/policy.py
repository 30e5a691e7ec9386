"""What a scheduling policy decides, and what it sees.

The mechanism (scheduler.py and its parts) keeps the account of every prompt, the engines' load
and weights, the batch in training and the checkpoint. A policy answers its questions: may a prompt
be sent now, which one, to which engine; which complete groups train next; when do the engines get
weights. An answer that cannot be carried out is an error that names the policy (answers.py); so a
bad policy may be slow, but cannot lose a prompt or train it twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from .engines import EnginePool
from .ledger import Prompt, PromptLedger
from .live import LiveGroups
from .options import SchedulerConfig
from .setbacks import Setbacks
from .sync import WeightSync
from .training import Training


class PolicyError(RuntimeError):
    """A policy gave an answer that cannot be carried out, or would stop the run for ever."""


class GroupView(Protocol):
    """A group to look at; see `groups.Group`, which has more."""

    @property
    def ticket(self) -> int: ...
    @property
    def prompt(self) -> Prompt: ...
    @property
    def engine(self) -> str: ...
    @property
    def dispatched_version(self) -> int: ...
    @property
    def oldest_version(self) -> int: ...
    @property
    def lag(self) -> int: ...
    @property
    def deadline(self) -> int: ...
    @property
    def waited_for(self) -> bool: ...
    @property
    def rewards(self) -> Sequence[float | None]: ...


class ShelfView(Protocol):
    """Groups by deadline, to look at; see `live.Shelf`."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[GroupView]: ...
    def before(self, version: int) -> Sequence[GroupView]: ...
    def waited_for(self) -> Iterator[tuple[int, int]]: ...


class Send(NamedTuple):
    """Send a prompt to `engine`.

    Attributes:
        engine: its name.
        fresh: a prompt that was never sent, if there is one, before those that came back.
        lag: in updates. The group's deadline is this much after its oldest token's version (while
            it is in flight: after its dispatch); groups are kept in the order of their deadlines.
        waited_for: a mark for the policy's own use.
    """

    engine: str
    fresh: bool = False
    lag: int = 0
    waited_for: bool = False


class Choice(NamedTuple):
    """The next batch.

    Attributes:
        train: complete groups in the order in which they are trained, as many as
            `View.batch_size`; none: wait.
        drop: groups, complete or in flight, that are given up now; their prompts are sent again.
    """

    train: Sequence[GroupView] = ()
    drop: Sequence[GroupView] = ()


class View:
    """What a policy sees: the state of the run, to read. It always shows the present."""

    __slots__ = ("_batch", "_ledger", "_live", "_pool", "_setbacks", "_sync", "_training")

    def __init__(
        self,
        training: Training,
        sync: WeightSync,
        pool: EnginePool,
        live: LiveGroups,
        ledger: PromptLedger,
        setbacks: Setbacks,
        prompts_per_batch: int,
    ) -> None:
        self._training = training
        self._sync = sync
        self._pool = pool
        self._live = live
        self._ledger = ledger
        self._setbacks = setbacks
        self._batch = prompts_per_batch

    @property
    def version(self) -> int:
        """Optimizer updates done."""
        return self._training.version

    @property
    def position(self) -> int:
        """The version at which the next batch will start to train."""
        return self._training.position

    @property
    def visible_version(self) -> int:
        """The version every engine has at least; a prompt that is sent now is stamped with it."""
        return self._sync.visible_version

    @property
    def in_flight(self) -> ShelfView:
        """Groups that are generated or wait for rewards, earliest deadline first."""
        return self._live.flying

    @property
    def complete(self) -> ShelfView:
        """Complete groups, earliest deadline first."""
        return self._live.done

    @property
    def total(self) -> int:
        """Groups in flight and complete ones."""
        return self._live.total

    @property
    def batch_size(self) -> int:
        """Groups in the next batch: only the last of the data may be short."""
        return min(self._batch, self._live.complete)

    @property
    def loads(self) -> Mapping[str, int]:
        """Sequences on each engine that has weights; those that are away do not count."""
        return {name: slot.load for name, slot in self._pool.ready.items()}

    @property
    def capacity(self) -> int:
        """Sequences on an engine, at most, but for those that come back to it; a group takes its n
        at once."""
        return self._pool.capacity

    @property
    def surplus(self) -> int:
        """Sequences in flight beyond the places on engines: the place of one that is away goes to
        another. A policy that does not count them may send all the data at once."""
        return max(0, self._pool.in_flight - self._pool.capacity * len(self._pool.ready))

    @property
    def least_loaded(self) -> str:
        """The engine with the fewest sequences; it has room for a group when `send` is asked."""
        slot = self._pool.least_loaded()
        assert slot is not None, "asked where no engine has room"
        return slot.name

    def prompt(self, *, fresh: bool = False) -> Prompt:
        """The prompt that would be sent now; `fresh` as in `Send`."""
        return self._ledger.peek(fresh=fresh or self._setbacks.outage)

    def drops(self, prompt: Prompt) -> int:
        """How often the prompt was dropped in this epoch."""
        return self._ledger.drops(prompt)


class Policy(ABC):
    """The decisions of a run; a subclass in a file of `policies/` or of a user's own makes them.

    Args:
        config: the run.

    Attributes:
        uses: the fields of `LagOptions` that it reads; the others are refused where they are set.
        limit: the greatest lag it means a sample to be trained at, in updates; older ones are
            counted. None: no limit.
        working_lag: what it goes by now, in updates, for the report; None: nothing of the kind.

    Raises:
        ValueError: options that the policy cannot keep to.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"sync_every"})
    limit: int | None = None
    working_lag: int | None = None

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.sync_every = config.lag.sync_every or config.updates_per_batch

    @abstractmethod
    def send(self, view: View) -> Send | None:
        """Where to send the next prompt, or None to send none for now.

        Asked after every event, until it is None, while an engine has room and there are prompts.
        """

    @abstractmethod
    def choose(self, view: View) -> Choice:
        """The groups that train next.

        Asked while the trainer is idle and a batch is complete, whenever that may have changed.
        """

    def sync_now(self, view: View) -> bool:
        """Whether the engines are to be given the trainer's weights, which they do not have.

        Asked between two steps of the trainer. An engine that joins is given them at once, and at
        the end of the run all are, whatever the policy says.
        """
        return view.version - view.visible_version >= self.sync_every

    def updates_to_sync(self, view: View) -> int:
        """Updates to train before `sync_now` is asked again, at least 1."""
        due = view.visible_version + self.sync_every - view.version
        return due if due > 0 else self.sync_every

    def trained(self, view: View, ess: float | None) -> None:  # noqa: B027 - may be left out
        """A batch is trained.

        Args:
            view: after it.
            ess: effective sample size of its importance weights, as a share; NaN where it had no
                weights, None where the trainer measures none.
        """

    def readmit(self, view: View, group: GroupView) -> bool:
        """Whether a complete group of a checkpoint, its lag cut to `limit`, is used; otherwise its
        prompt is sent again. Asked by deadline, earliest first."""
        return True

    def state_dict(self) -> Any:
        """What `load_state_dict` needs after a restart, as plain JSON data; None: nothing."""
        return None

    def load_state_dict(self, state: Any) -> None:  # noqa: B027 - may be left out
        """Go on from `state`, within the present options."""
