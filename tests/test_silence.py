import logging
import sys
import warnings

import pytest

from vibfx.silence import silenced


def make_noise():
    sys.stdout.write("printed\n")
    sys.stderr.write("printed\n")
    warnings.warn("warned", stacklevel=1)
    logging.getLogger("torch").error("logged")


def test_nothing_is_seen(capfd, caplog):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with silenced():
            make_noise()
    assert not seen
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_all_is_as_before_after_an_error(capfd):
    with pytest.raises(ZeroDivisionError), silenced():
        raise ZeroDivisionError
    assert logging.root.manager.disable == 0
    with pytest.warns(UserWarning, match="warned"):
        make_noise()
    assert capfd.readouterr().out == "printed\n"


def test_a_stricter_limit_on_the_log_stays():
    logging.disable(logging.CRITICAL)
    try:
        with silenced():
            assert logging.root.manager.disable == logging.CRITICAL
    finally:
        logging.disable(logging.NOTSET)
