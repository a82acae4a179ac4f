"""What a run shows without a terminal: lines at a slow pace."""

from msr_runtime.meta.training.progress import training_progress


def test_lines_are_few(monkeypatch, capsys) -> None:
    """One per validation, and one after each minute without a line. None moves the cursor."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with training_progress(300, 100, "msr", shown=True) as show:
        for step in range(101, 301):
            now = float(step - 100)  # a step takes a second
            show(step, {"loss": 0.5} | ({"validation_loss": 0.25} if step == 130 else {}))
    assert capsys.readouterr().err.splitlines() == [
        "msr: step 130 of 300, loss 0.5000, validation loss 0.2500, 1.0 steps/s",
        "msr: step 190 of 300, loss 0.5000, 1.0 steps/s",
        "msr: step 250 of 300, loss 0.5000, 1.0 steps/s",
    ]


def test_nothing_is_shown_where_nobody_asked(capsys) -> None:
    """The function that shows a step does nothing."""
    with training_progress(3, 0, "msr", shown=False) as show:
        show(1, {"loss": 0.5, "validation_loss": 0.25})
    assert capsys.readouterr().err == ""
