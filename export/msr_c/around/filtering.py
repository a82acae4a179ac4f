"""What the C code of a bundle with the rule `recursive` has beside the rest: a filter that learns sample by sample.

The graph computes what one sample says. What is here keeps the rows of past samples, forgets with time, and linearizes
the first samples again, as `msr_runtime.inference.updater` and `belief` do.
"""

import math

from msr_c.rewriting.translation import Translation
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.store import DEVIATION
from msr_runtime.relinearization import due
from msr_runtime.task import output_shape


def filter_words(manifest: Manifest, translation: Translation) -> dict[str, object]:
    """Return the words of the templates below."""
    settings = manifest.recursion
    assert settings is not None
    slots, _ = manifest.belief_shape
    outputs = math.prod(output_shape(manifest.outputs, manifest.loss))
    first = settings.relinearize
    again = [count for count in range(2, first + 1) if due(count, first)]
    has_deviation = DEVIATION in translation.graphs
    return {
        "slots": slots + outputs,
        "first": max(first, 1),
        "kept": (min(first, settings.memory) + 1) * outputs,
        "tau": f"exp(-seconds / {settings.tau!r})" if settings.tau is not None else "1.0",
        "tick": repr(settings.tick),
        "forgets": f"time constant {settings.tau:g} s" if settings.tau is not None else "it forgets nothing",
        "backup": _BACKUP if first else "",
        "again": _AGAIN if first else "",
        "learn_again": _LEARN_AGAIN if first else "",
        "counts": ", ".join(map(str, again)) or "0",
        "number": max(len(again), 1),
        "deviation_header": _DEVIATION_HEADER if has_deviation else "",
        "deviation": _DEVIATION if has_deviation else "",
    }


HEADER = """
/* A network that learns sample by sample, and how sure it is of its v: the covariance of v, whitened, is I - rT d r
   with the rows r of the samples that told most, and their weights d, decays. */
typedef struct {
    @name@_network network;
    float rows[@slots@ * @filters@];
    float decays[@slots@];
    double squares[@slots@]; /* the squared lengths of the rows */
    float first_x[@first@ * @inputs@], first_y[@first@ * @outputs@], first_keep[@first@];
    int first; /* how many of the first samples are kept */
    int place; /* where the rows of the next sample go */
} @name@_filter;

/* What a sample said before the filter learned from it: y minus the prediction, the variance that was expected of it,
   and the squares in their own expected deviations, summed: @outputs@ on average. */
typedef struct {
    float error[@outputs@], variance[@outputs@], nis;
} @name@_innovation;

/* The time between two samples of meta-training, in s; @forgets@. */
#define @NAME@_TICK @tick@

/* Set a filter to the meta-learned start, v0, and how sure it is of it. */
void @name@_filter_init(@name@_filter *filter);

/* Learn from one sample. `seconds` is the time since the one before. A y outside the bounds of its field is refused
   too. On any status but OK the filter is as it was. */
int @name@_update(@name@_filter *filter, @name@_workspace *work, const float *x, const float *y, double seconds,
                  @name@_innovation *innovation);
@deviation_header@"""

_DEVIATION_HEADER = """
/* Compute y of x, and its standard deviations: because v is not known, and with the noise of y too. */
int @name@_deviation(const @name@_filter *filter, @name@_workspace *work, const float *x, float *y, float *epistemic,
                     float *total);
"""

WORKSPACE = """    @name@_network networks[3];
    float decays[@slots@], new_rows[@outputs@ * @filters@];
@backup@"""

_BACKUP = """    float kept_rows[@kept@ * @filters@], kept_decays[@slots@];
    double kept_squares[@slots@];
"""

SOURCE = """
void @name@_filter_init(@name@_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    @name@_init(&filter->network);
}

/* A mean of which less is left counts as v0: float32 would not show it. */
#define NOTHING 5.9604645e-8f

/* Learn from one sample. The network is linearized at `there`, or where it is. Nothing is written on failure. */
static int learn(@name@_filter *filter, @name@_workspace *work, const float *x, const float *y, float keep,
                 const @name@_network *there, @name@_innovation *innovation)
{
    @name@_network *from = &work->networks[0], *to = &work->networks[1];
    float *numbers = (float *)from;
    const float *now = (const float *)&filter->network, *begin = (const float *)&start;
    const int place = keep < NOTHING ? 0 : filter->place; /* where nothing is left, it begins anew */
    int dropped = -1;
    double least = 0.0;
    /* v relaxes to v0 with time, and the weights, which are linear in v, with it; the covariance by the square. */
    for (size_t i = 0; i < sizeof *from / sizeof(float); ++i)
        numbers[i] = keep < 1.0f ? (now[i] - begin[i]) * keep + begin[i] : now[i];
    for (int i = 0; i < @slots@; ++i) {
        const float decay = keep < 1.0f ? filter->decays[i] * (keep * keep) : filter->decays[i];
        work->decays[i] = decay < 1e-9f && keep < 1.0f ? 0.0f : decay;
    }
    /* The rows of the sample that holds least make room. */
    for (int slot = 0; slot < @slots@; slot += @outputs@) {
        double share = 0.0;
        for (int i = slot; i < slot + @outputs@; ++i)
            share += (double)work->decays[i] * filter->squares[i];
        if (slot != place && (dropped < 0 || share < least)) {
            dropped = slot;
            least = share;
        }
    }
    for (int i = dropped; i < dropped + @outputs@; ++i)
        work->decays[i] = 0.0f;
    update_graph(there ? there : from, x, y, from->v, filter->rows, work->decays, to, work->new_rows, innovation->error,
                 innovation->variance, &innovation->nis, work);
    if (!all_finite((const float *)to, (int)(sizeof *to / sizeof(float))) ||
        !all_finite(work->new_rows, @outputs@ * @filters@) || !all_finite(innovation->error, @outputs@) ||
        !all_finite(innovation->variance, @outputs@) || !all_finite(&innovation->nis, 1))
        return @NAME@_NOT_FINITE_RESULT;
    filter->network = *to;
    memcpy(filter->decays, work->decays, sizeof filter->decays);
    memcpy(filter->rows + place * @filters@, work->new_rows, sizeof work->new_rows);
    for (int i = 0; i < @outputs@; ++i) {
        double square = 0.0;
        for (int j = 0; j < @filters@; ++j)
            square += (double)work->new_rows[i * @filters@ + j] * (double)work->new_rows[i * @filters@ + j];
        filter->squares[place + i] = square;
        filter->decays[place + i] = 1.0f;
    }
    filter->place = dropped;
    return @NAME@_OK;
}
@again@
int @name@_update(@name@_filter *filter, @name@_workspace *work, const float *x, const float *y, double seconds,
                  @name@_innovation *innovation)
{
    @name@_innovation found;
    float keep;
    int status = check_samples(x, y, 1);
    if (status != @NAME@_OK)
        return status;
    if (!all_within(y, 1, @outputs@, y_low, y_high))
        return @NAME@_OUT_OF_LIMITS;
    if (!(seconds >= 0.0 && seconds <= 1.7976931348623157e308))
        return @NAME@_NOT_FINITE;
    keep = (float)(@tau@);
    status = learn(filter, work, x, y, keep, NULL, &found);
    if (status != @NAME@_OK)
        return status;
@learn_again@    *innovation = found;
    return @NAME@_OK;
}
@deviation@"""

_AGAIN = """
/* Take the first samples again, from v0 on, with the network linearized where v is now: a Gauss-Newton step. If a
   number is not finite, the filter stays as it was. */
static void learn_again(@name@_filter *filter, @name@_workspace *work)
{
    @name@_network *there = &work->networks[2];
    @name@_innovation unused;
    const int place = filter->place;
    int status = @NAME@_OK;
    *there = filter->network;
    memcpy(work->kept_rows, filter->rows, sizeof work->kept_rows);
    memcpy(work->kept_decays, filter->decays, sizeof work->kept_decays);
    memcpy(work->kept_squares, filter->squares, sizeof work->kept_squares);
    filter->network = start;
    memset(filter->decays, 0, sizeof filter->decays);
    memset(filter->squares, 0, sizeof filter->squares);
    filter->place = 0;
    for (int i = 0; i < filter->first && status == @NAME@_OK; ++i)
        status = learn(filter, work, filter->first_x + i * @inputs@, filter->first_y + i * @outputs@,
                       filter->first_keep[i], there, &unused);
    if (status == @NAME@_OK)
        return;
    filter->network = *there;
    memcpy(filter->rows, work->kept_rows, sizeof work->kept_rows);
    memcpy(filter->decays, work->kept_decays, sizeof work->kept_decays);
    memcpy(filter->squares, work->kept_squares, sizeof work->kept_squares);
    filter->place = place;
}
"""

_LEARN_AGAIN = """    if (keep < NOTHING)
        filter->first = 0;
    if (filter->first < @first@) {
        static const int counts[@number@] = {@counts@};
        memcpy(filter->first_x + filter->first * @inputs@, x, @inputs@ * sizeof(float));
        memcpy(filter->first_y + filter->first * @outputs@, y, @outputs@ * sizeof(float));
        filter->first_keep[filter->first] = keep;
        ++filter->first;
        for (int i = 0; i < @number@; ++i)
            if (counts[i] == filter->first)
                learn_again(filter, work);
    }
"""

_DEVIATION = """
int @name@_deviation(const @name@_filter *filter, @name@_workspace *work, const float *x, float *y, float *epistemic,
                     float *total)
{
    float found[3][@outputs@];
    if (!all_finite(x, @inputs@))
        return @NAME@_NOT_FINITE;
    deviation_graph(&filter->network, x, filter->rows, filter->decays, found[0], found[1], found[2], work);
    if (!all_finite(found[0], 3 * @outputs@))
        return @NAME@_NOT_FINITE_RESULT;
    memcpy(y, found[0], sizeof found[0]);
    memcpy(epistemic, found[1], sizeof found[1]);
    memcpy(total, found[2], sizeof found[2]);
    return @NAME@_OK;
}
"""
