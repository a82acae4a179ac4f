"""Prepare a run: check the family, test its augmentation, measure the normalization, simulate the tasks.

`prepare` takes no outer step and writes no file. It returns a `Preparation`, which can be printed, and from which
`MetaTrainer` trains.
"""

import math
from dataclasses import dataclass

import numpy as np

from msr_runtime.errors import TrainingError
from msr_runtime.families import CountedFamily, EpisodicFamily, queries_beside, takes_windows
from msr_runtime.meta.learners.config import FOUND
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.learners.methods import learner_class
from msr_runtime.meta.symmetry.finding import Discovery, discover_group
from msr_runtime.meta.symmetry.grid import GRID_NAMES
from msr_runtime.meta.training.augmentation import augment_queries, augments
from msr_runtime.meta.training.checkpoint import build_learner
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.meta.training.distributed import ALONE, Processes
from msr_runtime.meta.training.disturbance import describe_disturbance, require_disturbance
from msr_runtime.meta.training.drawing import draw_tasks
from msr_runtime.meta.training.episodes import EpisodePool
from msr_runtime.meta.training.mixed_precision import require_precision
from msr_runtime.meta.training.normalization import measure_normalization, raw_units
from msr_runtime.meta.training.outer import require_inner_steps
from msr_runtime.meta.training.own_parts import require_trainable
from msr_runtime.meta.training.pool import TaskPool
from msr_runtime.meta.training.preflight import (
    require_linear,
    require_pool,
    require_queries,
    require_same_images,
    require_samples,
    require_used,
)
from msr_runtime.meta.training.progress import working
from msr_runtime.meta.training.run import Saved
from msr_runtime.meta.training.starting import begin_from, read_start
from msr_runtime.meta.training.streams import NORMALIZATION, POOL, SYMMETRY, VALIDATION, stream
from msr_runtime.meta.training.symmetry_test import AugmentationReport, require_symmetry
from msr_runtime.normalization import Normalization
from msr_runtime.task import DeclaredFamily, Group, Split, SymmetricFamily, TaskBatch, TaskFamily, image_layout

_BELOW = f"\n{'':<14}"
"""What stands between two lines of one row."""
_VALIDATION_QUERIES = 32
"""Queries per query set of each validation task."""


@dataclass(frozen=True)
class Preparation:
    """A checked family, with everything that training needs. `prepare` returns it; `print` shows a summary."""

    family: TaskFamily
    """The tasks."""
    config: TrainConfig
    """The configuration of the run. A group of flips and turns that was to be found is named there."""
    learner: Learner
    """The learner: freshly built, or with the weights of the checkpoint from which the run resumes."""
    group: Group | None
    """The family's group as matrices: what its `group()` gives, or what was found from its `augment`. None without."""
    discovery: Discovery | None
    """What was found in `augment`. None if nothing was looked for: the family has a `group()`, and the configuration
    does not ask for more."""
    symmetry: AugmentationReport | None
    """Result of the test of the augmentation. None if there was no test: the run does not augment, the augmentation
    changes nothing, the tasks are episodes of images, which keep their class by definition, the settings insist on it,
    or the run resumes from a checkpoint."""
    normalization: Normalization
    """Center and scale of the inputs and outputs: measured, or those of the checkpoint from which the run resumes."""
    constant: tuple[str, ...]
    """Numbers of x and y that do not change on the measured samples: the network can learn nothing from them. Not
    measured again, and so empty, if the run resumes."""
    pool: TaskPool | EpisodePool
    """The simulated training tasks, or the stored images of which every outer step draws new ones."""
    validation: TaskBatch
    """Held-out tasks in raw units. Their queries are augmented as in training."""

    def __str__(self) -> str:
        settings = self.config.settings
        group = f"group {self.group.name}" if self.group else "no group given as matrices"
        if self.group and not isinstance(self.family, SymmetricFamily):
            group += ", found from augment"
        rows = {
            "family": f"{self.config.family}, {group}",
            **({"found": words} if (words := self._found()) else {}),
            **({"symmetry": words} if (words := self._declared()) else {}),
            "augmentation": self.symmetry or self._why_untested(),
            "learner": f"{self.config.method}, {self.learner.adapted_size():,} adapted numbers{self._steps()}",
            **({"image": layout} if (layout := image_layout(self.family.inputs)) else {}),
            **({"constant": ", ".join(self.constant)} if self.constant else {}),
            **({"note": "; ".join(notes)} if (notes := getattr(self.family, "notes", ())) else {}),
            "training": self._tasks(),
            **({"queries": words} if (words := self._uneven()) else {}),
            "validation": f"{self._drawn(len(self.validation.support_x), 'validation')}, {settings.shots} shots",
            **({"disturbed": words} if (words := describe_disturbance(settings)) else {}),
        }
        return "\n".join(f"{name:<13} {value}" for name, value in rows.items())

    def _found(self) -> str:
        found = self.discovery
        if found is None or (found.nothing and not augments(self.family)):
            return ""
        then = "so the equivariance is not measured, and a bundle names no group"
        return f"{found}; {then}" if found.nothing else str(found).replace("\n", _BELOW)

    def _declared(self) -> str:
        lines = self.family.symmetry_in_words() if isinstance(self.family, DeclaredFamily) else ()
        return _BELOW.join(lines)

    def _tasks(self) -> str:
        if isinstance(self.pool, EpisodePool):
            family, settings = self.pool.family, self.config.settings
            queries = queries_beside(family, settings.shots, settings.queries)
            each = f"{family.ways} classes with {settings.shots} and {queries} images as queries"
            return f"new tasks in each step: {each}, of {family.images.nbytes / 2**20:.0f} MiB"
        data = self.pool.data
        size = sum(array.nbytes for array in {id(array): array for array in data}.values()) / 2**20
        return f"{self._drawn(len(data.support_x), 'train')} {self._source(self.pool.shared)}, {size:.0f} MiB"

    def _drawn(self, tasks: int, split: Split) -> str:
        held = self.family.count_tasks(split) if isinstance(self.family, CountedFamily) else tasks
        return f"{tasks} tasks" if tasks <= held else f"{tasks} draws of {held} tasks"

    def _uneven(self) -> str:
        """Say how many queries of each set a step takes, if it is not the same number of each."""
        sets, queries = self.family.query_sets, self.config.settings.queries
        if queries % len(sets) == 0 or not isinstance(self.pool, TaskPool) or self.pool.shared is not None:
            return ""
        parts = [len(part) for part in np.array_split(np.arange(queries), len(sets))]
        return f"{queries} a step: {', '.join(f'{n} of {name}' for n, name in zip(parts, sets, strict=True))}"

    def _source(self, shared: int | None) -> str:
        settings = self.config.settings
        if takes_windows(self.family):
            return (
                f"in windows: {settings.shots} consecutive samples, and the {settings.queries} that follow as queries"
            )
        if shared is None:
            return "simulated"
        queries = min(settings.queries, shared - settings.shots)
        return f"of {shared} examples; a step takes {settings.shots} and {queries} as queries"

    def _steps(self) -> str:
        rule = self.learner.rule
        return f", by {rule.steps} {self.config.learner.rule} step{'s' * (rule.steps > 1)}" if rule else ""

    def _why_untested(self) -> str:
        settings = self.config.settings
        if not settings.augment:
            return "off"
        if settings.insist_on_augmentation:
            return "not tested: the settings insist on it"
        if isinstance(self.family, EpisodicFamily):
            return "not tested: an image that is moved keeps its class"
        return "not tested again: the run resumes" if augments(self.family) else "not tested: it changes no sample"


def prepare(
    family: TaskFamily,
    config: TrainConfig,
    *,
    learner: type[Learner] | None = None,
    saved: Saved | None = None,
    progress: bool = True,
    processes: Processes = ALONE,
) -> Preparation:
    """Check the family, test its augmentation, measure the normalization and simulate the tasks.

    This takes no outer step and writes no file. The quick checks come first, so that wrong settings are refused before
    anything is simulated for long.

    Args:
        family: The tasks.
        config: The configuration of the run.
        learner: The class of your own learner. Without it, the built-in learner named in the configuration.
        saved: The state from which a resumed run continues (`Run.saved`). Its weights and its normalization are kept,
            and the augmentation is not tested again.
        progress: Show on stderr what takes time.
        processes: The processes that share the run.

    Returns:
        The value that `MetaTrainer` takes.

    Raises:
        AugmentationError: The family's augmentation is not a symmetry of each task, and the settings do not insist on
            it.
        FamilyError: The family's `sample` fails, or gives something else than was asked for.
        TrainingError: An outer step needs more tasks or samples than are simulated; there are more processes than tasks
            per step; the shape of the samples is not that of the family's fields; the samples need more memory than
            the machine has; a number is too far from zero for float32 (`Normalization.far_from_zero`); an option is
            set that nothing uses; or the settings do not fit the learner.

    Example:
        >>> from msr_envs import load_family
        >>> from msr_runtime.meta import LearnerConfig, TrainConfig, TrainSettings, prepare
        >>> family, settings = load_family("ring-nav"), TrainSettings(training_tasks=20, insist_on_augmentation=True)
        >>> print(prepare(family, TrainConfig.of(family, "msr", LearnerConfig(), settings), progress=False))
        family        ring-nav, group C16
        symmetry      turn by 22.5°: proximity shifts by 1, goal turns; of the outputs: velocity turns
        augmentation  not tested: the settings insist on it
        learner       msr, 450 adapted numbers, by 2 gauss-newton steps
        training      20 tasks simulated, 0 MiB
        validation    64 tasks, 10 shots

    """
    kind = learner or learner_class(config.method)
    config = config.settled(kind)
    settings, shown = config.settings, progress and processes.first
    if saved is None:  # a run that was begun before an option was refused can still be finished
        require_used(config, kind, family)
        require_queries(family, settings)
    require_pool(family, settings)
    require_disturbance(family, settings)
    require_samples(family, settings)
    processes.share(settings.tasks_per_step)
    discovery, group = None, family.group() if isinstance(family, SymmetricFamily) else None
    if config.learner.grid_group == FOUND or not isinstance(family, SymmetricFamily):
        discovery = processes.from_first(lambda: discover_group(family, settings.seed))
        config, group = _with_group(config, discovery), group or discovery.group
    built = build_learner(config, learner, group)
    require_linear(family, built)
    if settings.multi_step or settings.recompute:
        require_inner_steps(built)
    require_precision(built, settings.precision, recompute=settings.recompute)
    if saved is None:
        require_trainable(built)
    if saved is not None:  # a new normalization would change what the saved weights mean
        built.load_state_dict(saved.learner)
        normalization, constant = saved.normalization, ()
        if isinstance(family, EpisodicFamily) and settings.start is None:
            require_same_images(family, normalization, _measure(family, settings, group)[0])
    elif settings.start is not None:
        start = processes.from_first(lambda: read_start(config, learner))
        begin_from(start, built, config)
        normalization, constant = start.normalization, ()
    else:
        normalization, constant = _measure(family, settings, group)
    if (far := normalization.far_from_zero(family.inputs, family.outputs)) is not None:
        raise TrainingError(f"family '{family.name}': {far}")
    symmetry = None
    tested = settings.augment and not settings.insist_on_augmentation and not isinstance(family, EpisodicFamily)
    if saved is None and tested and augments(family):
        with working("testing the augmentation on held-out tasks", shown=shown):
            symmetry = require_symmetry(family, stream(settings.seed, SYMMETRY))
    # Each use of random numbers has its own stream: a resumed run skips the test and still simulates the same tasks.
    if isinstance(family, EpisodicFamily):
        pool = EpisodePool(family, processes.device, normalization)
    else:
        with working(f"simulating {settings.training_tasks} tasks", shown=shown):
            window = (settings.shots, math.ceil(settings.queries / len(family.query_sets)))
            rng = stream(settings.seed, POOL)
            pool = TaskPool(family, rng, settings.training_tasks, settings.samples_per_task, window)
    validation = _draw_validation(family, config)
    return Preparation(family, config, built, group, discovery, symmetry, normalization, constant, pool, validation)


def _with_group(config: TrainConfig, discovery: Discovery) -> TrainConfig:
    """Name the flips and turns that were found, if the configuration asks for them."""
    if config.learner.grid_group != FOUND:
        return config
    if discovery.grid is None or discovery.grid.name not in GRID_NAMES:
        raise TrainingError(
            f"grid_group is '{FOUND}', but in the augmentation of family '{config.family}' was found: "
            f"{discovery.words[0]}; wanted is one of {', '.join(GRID_NAMES)}: take method 'protonets', which needs no "
            "group, name a group (--learner.grid-group), or let the family draw more flips or turns"
        )
    return config.model_copy(update={"learner": config.learner.model_copy(update={"grid_group": discovery.grid.name})})


def _measure(family: TaskFamily, settings: TrainSettings, group: Group | None) -> tuple[Normalization, tuple[str, ...]]:
    """Return the normalization with which a run begins, and the numbers of x that never change."""
    normalization, constant = measure_normalization(family, stream(settings.seed, NORMALIZATION), group)
    return (normalization if settings.normalize else raw_units(family)), constant


def _draw_validation(family: TaskFamily, config: TrainConfig) -> TaskBatch:
    settings = config.settings
    rng = stream(settings.seed, VALIDATION)
    queries = queries_beside(family, settings.shots, _VALIDATION_QUERIES * len(family.query_sets))
    batch = draw_tasks(family, rng, settings.validation_tasks, settings.shots, queries, "validation")
    return augment_queries(family, rng, batch) if settings.augment else batch
