"""What is timed beside the runtime computes the same, and the table says who is ahead."""

from importlib.util import find_spec

import pytest
from latency import (
    NEEDS,
    NETWORKS,
    Network,
    draw_samples,
    main,
    make_contenders,
    make_learner,
    require_agreement,
    require_peers,
)
from latency import Options as Settings
from tables import TABLES

WITHOUT = tuple(who for who, modules in NEEDS.items() if not all(map(find_spec, modules)))
SMALL = Network(width=8, filters=4, steps=(1, 2))


@pytest.mark.parametrize(
    "network",
    [
        SMALL,
        pytest.param(SMALL._replace(form="kronecker"), marks=pytest.mark.slow),
        SMALL._replace(rule="gauss-newton"),
    ],
    ids=("full U", "kronecker U", "Gauss-Newton"),
)
def test_all_contenders_that_are_installed_adapt_alike(network: Network) -> None:
    """Eager torch and native code always; JAX, LiteRT and IREE with what `make peers` installs."""
    learner, normalization, model = make_learner(network)
    x, y, one = draw_samples(network)
    contenders = make_contenders(learner, normalization, model, (x, y), (*WITHOUT, "torch.compile"))
    assert {"AdaptiveModel", "native", "torch eager"} <= set(contenders)
    require_agreement(contenders, (x, y), one, network.steps)

    other = contenders["torch eager"]
    other.adapt = lambda *_: None
    other.weights = other.problem.weights0
    with pytest.raises(SystemExit, match="torch eager predicts otherwise than the runtime: off by"):
        require_agreement(contenders, (x, y), one, network.steps)


def test_a_contender_that_cannot_run_is_named_before_anything_is_measured(monkeypatch) -> None:
    monkeypatch.setattr("latency.find_spec", lambda name: None if name == "iree" else True)
    with pytest.raises(SystemExit, match=r"IREE is among .* 'iree' is not installed; .*make peers.*--without 'IREE'"):
        main(Settings(networks=("full U",)))
    require_peers(("IREE",))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="native is among the contenders, but there is no C compiler 'cc'"):
        require_peers(("IREE",))
    require_peers(("IREE", "native"))


def test_a_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SystemExit, match="--networks names 'moon', but there are full U, kronecker U"):
        main(Settings(networks=("moon",), without=tuple(NEEDS)))
    assert set(Settings().networks) == set(NETWORKS)


def test_the_table_names_the_peers_that_are_ahead_of_native_code() -> None:
    """By the medians over the runs. What was not measured is no rival."""
    seconds = {"AdaptiveModel": (4e-6, 4e-6), "native": (2e-6, 2e-6), "LiteRT": (1e-6, 1.5e-6), "IREE": (3e-6, 3e-6)}
    rows = [
        {"what": "predict", "who": who, "run": run, "p50_seconds": p50}
        for who, each in seconds.items()
        for run, p50 in enumerate(each)
    ]
    (line,) = TABLES["latency"].lines(rows)
    assert (line["native"], line["LiteRT"], line["JAX jit"]) == ("0.50", "0.31 (0.25 to 0.38)", "–")
    assert line["ahead of native"] == "LiteRT"
    (line,) = TABLES["latency"].lines([row for row in rows if row["who"] != "LiteRT"])
    assert line["ahead of native"] == "nobody"
    (line,) = TABLES["latency"].lines([row for row in rows if row["who"] != "native"])
    assert line["ahead of native"] == "–"
