"""What a run shows without a terminal: lines at a slow pace."""

from msr_runtime.meta import LearnerConfig, train
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


def test_a_slow_rule_is_named_once(training, tmp_path, monkeypatch, capsys) -> None:
    """With its time, its sizes and the option that is quicker. Gradient steps have no quicker rule."""
    learner = LearnerConfig(width=4, depth=1, filters=3)
    for name, config in (("newton", learner), ("gradient", learner.model_copy(update={"rule": "gradient"}))):
        for slow in (0.0, 1e9):
            monkeypatch.setattr("msr_runtime.meta.training.progress.SLOW", slow)
            run = training.config(training.Plane(), learner=config, steps=5)
            train(training.Plane(), run, tmp_path / f"{name} {slow}")
            notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: an outer step")]
            assert len(notes) == (name == "newton" and not slow)
            if notes:
                assert "solves for 11 numbers from 5 samples of 2 outputs" in notes[0]
                assert "--learner.rule gradient" in notes[0]
