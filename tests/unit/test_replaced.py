from types import ModuleType

import pytest

from vespo_openrlhf.replaced import replaced


class Base:
    def inherited(self) -> str:
        return "base"


class Owner(Base):
    here = 1

    @staticmethod
    def static() -> str:
        return "own"


def test_a_classs_attributes_are_as_they_were() -> None:
    before = dict(vars(Owner))
    with replaced(Owner, here=2, static=lambda: "other", inherited=lambda self: "other", new=3):
        assert (Owner.here, Owner.static(), Owner().inherited(), Owner.new) == (
            *(2, "other", "other"),
            3,
        )
    assert dict(vars(Owner)) == before
    assert (Owner.static(), Owner().inherited()) == ("own", "base")


def test_an_objects_class_is_left_alone() -> None:
    owner = Owner()
    with replaced(owner, here=2):
        assert (owner.here, Owner.here) == (2, 1)
    assert owner.here == 1
    assert not vars(owner)


def test_a_module_is_as_it_was_after_an_error() -> None:
    module = ModuleType("a_module")
    module.name = "own"

    def fail() -> None:
        with replaced(module, name="other", new=1):
            raise ValueError(module.name)

    with pytest.raises(ValueError, match="other"):
        fail()
    assert module.name == "own"
    assert not hasattr(module, "new")
