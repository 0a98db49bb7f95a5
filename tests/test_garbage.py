"""How often garbage is looked for: seldom while things are imported, and never among what was there before."""

import gc
import weakref

import pytest

from know_hf.cli.main import main
from know_hf.garbage import nothing_old, seldom_looked_for


@pytest.fixture(autouse=True)
def nothing_frozen():
    gc.unfreeze()  # of what the tests' own configuration froze
    yield
    gc.freeze()


class Cycle:
    """What only the collector frees."""

    def __init__(self) -> None:
        self.own = self


def test_what_was_there_is_left_alone_and_what_is_new_is_not():
    before, kept = weakref.ref(Cycle()), Cycle()
    frozen = gc.get_freeze_count()
    with nothing_old():
        assert before() is None, "garbage from before would stay for the whole training"
        assert gc.get_freeze_count() > frozen
        now = weakref.ref(Cycle())
        with nothing_old():  # of a training within
            assert now() is not None
        assert gc.get_freeze_count() > frozen
        gc.collect()
        assert now() is None
        within = weakref.ref(kept)
        del kept
    assert gc.get_freeze_count() == frozen
    gc.collect()
    assert within() is None


def test_all_is_as_it_was_after_an_error():
    threshold = gc.get_threshold()
    for block in (nothing_old, seldom_looked_for):
        with pytest.raises(OSError), block():
            raise OSError
    assert gc.get_threshold() == threshold and gc.get_freeze_count() == 0
    with seldom_looked_for():
        assert gc.get_threshold()[0] > threshold[0]
    with pytest.raises(SystemExit):
        main(["plan", "not-there"])
    assert gc.get_threshold() == threshold


def test_what_a_program_froze_itself_stays_frozen():
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with nothing_old():
            assert gc.get_freeze_count() == count
        assert gc.get_freeze_count() == count
    finally:
        gc.unfreeze()
