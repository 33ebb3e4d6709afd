"""What is shown while a compression runs."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from vibfx.cli.live import LiveProgress
from vibfx.training.meter import Progress

STATE = Progress(
    phase="compress",
    epoch=4,
    epochs=20,
    step=50,
    done=0.2,
    loss=0.12345,
    accuracy=0.9876,
    units_left=1_100,
    units=1_570,
    flops_left=0.734,
    rate=5_432.1,
    waiting=0.02,
    seconds_left=125.4,
)


def console(*, terminal=False):
    return Console(file=io.StringIO(), width=140, force_terminal=terminal, color_system=None)


def shown(screen):
    return screen.file.getvalue()


def lines(screen):
    return [line.rstrip() for line in shown(screen).splitlines() if line.strip()]


def test_away_from_a_terminal_each_stage_is_one_line_when_it_ends():
    screen = console()
    with LiveProgress(screen) as live:
        live.stage("tracing the model")
        assert lines(screen) == []
        live.stage("training the gates")
        assert lines(screen) == ["✓ tracing the model"]
        live.progress(STATE)
        live.progress(replace(STATE, epoch=20, done=1.0, units_left=400, flops_left=0.1))
        live.stage("exporting")
    assert lines(screen) == [
        "✓ tracing the model",
        "✓ training the gates  epoch 20/20 · loss 0.123 · accuracy 98.8 % · units 400/1,570 · "
        "FLOPs 10 %",
        "✓ exporting",
    ]


def test_a_phase_without_gates_names_no_units():
    screen = console()
    with LiveProgress(screen) as live:
        live.stage("fine-tuning")
        live.progress(replace(STATE, units=0, units_left=0, flops_left=1.0))
    assert lines(screen) == ["✓ fine-tuning  epoch 4/20 · loss 0.123 · accuracy 98.8 %"]


def test_figures_are_not_carried_over_to_the_next_stage():
    screen = console()
    with LiveProgress(screen) as live:
        live.stage("training the gates")
        live.progress(STATE)
        live.stage("removing the shut channels")
    assert lines(screen)[-1] == "✓ removing the shut channels"


def test_a_stage_that_failed_is_not_ticked_off():
    screen = console()
    with pytest.raises(ZeroDivisionError):
        _fail_while_measuring(screen)
    assert lines(screen) == ["✓ tracing the model"]


def _fail_while_measuring(screen):
    with LiveProgress(screen) as live:
        live.stage("tracing the model")
        live.stage("measuring the original")
        raise ZeroDivisionError


def test_progress_before_any_stage_is_nothing_to_show():
    screen = console()
    with LiveProgress(screen) as live:
        live.progress(STATE)
    assert lines(screen) == []


def test_a_terminal_shows_the_figures_and_the_time_left_meanwhile():
    screen = console(terminal=True)
    with LiveProgress(screen) as live:
        live.stage("training the gates")
        live.progress(STATE)
        live._bar.refresh()
        meanwhile = shown(screen)
    assert "epoch 4/20 · loss 0.123 · accuracy 98.8 % · units 1,100/1,570" in " ".join(
        meanwhile.split()
    )
    assert "2:05 left" in meanwhile
