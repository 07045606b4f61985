"""How numbers are written: in sentences, in tables, on the page, in the terminal."""

import math

from ..result import OTHER_RUN

HALF, SEEN = 0.5, 0.1  # from half of the gap on a cell carries the difference, from a tenth on it shows a trace of it


def number(value):
    """Two decimals, or four digits of what is near 0."""
    return f"{value + 0.0:.4g}" if abs(value) < 0.01 else f"{value:.2f}"  # -0.0 + 0.0 is 0.0


def signed(value):
    return f"{round(float(value), 2) + 0.0:+.2f}"  # -0.001 is +0.00


def percent(share):
    """ "98 %"; "<1 %" for a trace; a decimal just below HALF or SEEN, so that it does not read as reached."""
    if 0 < share < 0.005:
        return "<1 %"
    if any(limit - 0.005 <= abs(share) < limit for limit in (HALF, SEEN)):
        return f"{math.copysign(math.floor(1000 * abs(share)) / 10, share)} %"
    return f"{round(100 * float(share))} %"


def tenths(share):
    """One character for a share of the gap."""
    if abs(share) < 0.05:
        return "."
    return "-" if share < 0 else "+" if share >= 1.1 else "#" if share >= 0.95 else str(int(share * 10 + 0.5))


def probability(p):
    return f"{p:.4f}" if p >= 5e-5 else f"{p:.1e}"


def with_share(result, value):
    """A value with six digits and its share of the gap: "-10.3948 (restores 99.9 % of the gap)"."""
    if not result.gap or not math.isfinite(value):
        return f"{value:.6g}"
    share = round(100 * float(value - result.base_value) / result.gap, 1) + 0.0  # no minus zero
    verb = "restores " if result.restores else "destroys " if result.source == OTHER_RUN else ""
    return f"{value:.6g} ({verb}{share:.1f} % of the gap)"


def three_digits(value, largest):
    """A value for a cell of a map, with about three digits of the map's largest."""
    if not math.isfinite(value):
        return str(value)
    decimals = 2 - math.floor(math.log10(largest)) if math.isfinite(largest) else 2
    return f"{round(float(value), decimals) + 0.0:.{max(0, decimals)}f}" if decimals < 5 else f"{value:.1e}"
