"""What the fused schedulers keep between steps: the coefficients of every timestep, made again when
something that they are made of has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from robustmdiff.ops.ddpm import Coefficients
from robustmdiff.ops.ddpm.check import readable
from robustmdiff.ops.ddpm.table import step_rows

INTEGERS = (torch.int64, torch.int32)  # what a timestep may be
NEVER = torch.iinfo(torch.int64).max  # in place of a timestep that has no coefficients


class Table(NamedTuple):
    """The coefficients of S timesteps, on the device of the samples."""

    steps: Tensor  # float32 [S, 8], for ddpm_step
    only_x0: Tensor  # the same with x_0 as the result of the step
    timesteps: Tensor  # int64 [S], NEVER where a row holds nothing
    row_of: dict[int, int]  # from a timestep to its first row


class _Entry(NamedTuple):
    settings: tuple[Any, ...]
    marks: list[Tensor | tuple[Tensor, int]]
    made: Any


class Tables:
    """Made by name, and again when a setting, the device or a value of the tensors differs."""

    def __init__(self) -> None:
        self._kept: dict[str, _Entry] = {}

    def get(
        self, name: str, settings: tuple[Any, ...], of: tuple[Tensor, ...], make: Callable[[], Any]
    ) -> Any:
        """make(), or what it gave when the settings and the tensors were as they are. Nothing is kept in a
        compiled graph, which so sees every change too, or where a gradient passes through it."""
        if is_compiling() or any(x.requires_grad for x in of):
            return make()
        kept = self._kept.get(name)
        if kept is None or kept.settings != settings or not all(map(_unchanged, kept.marks, of)):
            with torch.inference_mode(False), torch.no_grad():  # so that a later step can be trained through
                kept = _Entry(settings, [_mark(x) for x in of], make())
            self._kept[name] = kept
        return kept.made


def _mark(x: Tensor) -> Tensor | tuple[Tensor, int]:
    """What `_unchanged` compares: on the CPU the values; elsewhere, where a look at them would wait, which
    tensor it is and how often it has been written to."""
    return x.detach().clone() if x.device.type == "cpu" else (x, x._version)


def _unchanged(mark: Tensor | tuple[Tensor, int], x: Tensor) -> bool:
    if isinstance(mark, Tensor):
        return x.device.type == "cpu" and x.dtype is mark.dtype and torch.equal(mark, x)
    return mark[0] is x and mark[1] == x._version


def count_writes(owner: Any, *names: str) -> None:
    """Tensors made in inference mode do not count the writes to them: elsewhere than on the CPU, where they
    are compared by value, these attributes are replaced by copies that do."""
    if is_compiling():  # nothing is kept
        return
    for name in names:
        x = getattr(owner, name)
        if x.device.type != "cpu" and x.is_inference():
            with torch.inference_mode(False):
                setattr(owner, name, x.clone())


def at_hand(x: Tensor) -> Tensor:
    """x on the CPU, where small tables are made; a compiled graph makes them where x is."""
    return x if is_compiling() else x.cpu()


def ddpm_steps(alpha_bars: Tensor, timesteps: Tensor | None, variance_type: str) -> tuple[Tensor, Tensor]:
    """(float32 [S, 8], int64 [S]): the rows and their timesteps.

    timesteps int64 [S] are visited in this order; None: t - 1 follows t, for all t from T - 1 to -T (as
    torch counts from the end).
    """
    T = len(alpha_bars)
    if timesteps is None:
        t = torch.arange(T - 1, -T - 1, -1, device=alpha_bars.device)
        following = t - 1
    else:
        t = timesteps.to(alpha_bars.device, torch.int64)
        following = torch.cat([t[1:], torch.full_like(t[:1], -1)])
    inside = (t >= -T) & (t < T) & (following < T)
    rows = step_rows(alpha_bars, t.clamp(-T, T - 1), following.clamp(max=T - 1), variance_type)
    if variance_type == "learned":  # ends at which "learned_range" gives exp(variance_output / 2)
        columns = Coefficients(*rows.unbind(1))
        noisy, one = (columns.sigma > 0).float(), torch.ones_like(columns.sigma)
        rows = torch.stack(columns._replace(sigma=noisy, log_variance_min=-one, log_variance_max=one), 1)
    return rows, torch.where(inside, t, NEVER)


def ddim_steps(
    alpha_bars: Tensor, final_alpha_bar: Tensor, stride: int, eta: float, source: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(float32 [2 T, 8], int64 [2 T], float32 [2 T]): the rows of all timesteps from -T (as torch counts from
    the end) to T - 1, each `stride` from the next; and what the model's output weighs in the direction.

    a and b are the roots of alpha bar and 1 - alpha bar. The direction to x_t is d e with the noise
    e = (x_t - a x_0) / b, so x_prev = (a_prev - d a / b) x_0 + (d / b) x_t + sigma z. Where x_0 is
    clipped and e is not derived from it but from what the model predicts (`source`), the share of
    x_t in d e goes to weight_xt, and that of the model's output takes the place of the noise where there is
    none, or else is for the caller to add.
    """
    T = len(alpha_bars)
    t = torch.arange(-T, T, device=alpha_bars.device)
    before = t - stride
    alpha_bar = alpha_bars[t]
    alpha_bar_prev = torch.where(before < 0, final_alpha_bar, alpha_bars[before.clamp(0, T - 1)])
    # In float32 as in diffusers: 1 - alpha_bar / alpha_bar_prev loses digits there, and must here too.
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    sigma = eta * variance**0.5
    a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    a_prev, d = alpha_bar_prev**0.5, (1 - alpha_bar_prev - sigma**2) ** 0.5
    a64, b64, d64 = a.double(), b.double(), d.double()
    of_x0, of_xt, of_output = {
        "x_0": (a_prev - d64 * a64 / b64, d64 / b64, 0 * d64),
        "epsilon": (a_prev, 0 * d64, d64),
        "sample": (a_prev, d64 / b64, -d64 * a64 / b64),
        "v_prediction": (a_prev, d64 * b64, d64 * a64),
    }[source]
    if eta <= 0:  # of "sample" of_output is negative, and no sigma can be
        sigma = torch.zeros_like(d) if source == "sample" else of_output
    return _rows(a, b, of_x0, of_xt, sigma), t, of_output.float()


def noise_rows(alpha_bars: Tensor) -> Tensor:
    """float32 [T, 8], for ddpm_noise."""
    return _rows(alpha_bars**0.5, (1 - alpha_bars) ** 0.5)


def on_device(steps: Tensor, timesteps: Tensor, device: torch.device) -> Table:
    columns = Coefficients(*steps.unbind(1))
    only_x0 = _rows(columns.sqrt_alpha_bar, columns.sqrt_beta_bar, torch.ones_like(columns.weight_x0))
    row_of = {}
    if not is_compiling():
        row_of = {t: row for row, t in reversed(list(enumerate(timesteps.tolist()))) if t != NEVER}
    return Table(steps.to(device), only_x0.to(device), timesteps.to(device), row_of)


def _rows(*columns: Tensor) -> Tensor:
    """float32 [S, 8]: a table of these first columns, 0 in the others."""
    table = torch.stack([column.float() for column in columns], 1)
    return torch.nn.functional.pad(table, (0, len(Coefficients._fields) - len(columns))).contiguous()


def for_each(timestep: Tensor, sample: Tensor) -> Tensor:
    """int64 [B]: one timestep for each sample."""
    B = sample.shape[0]
    if timestep.shape not in ((), (1,), (B,)) or timestep.dtype not in INTEGERS:
        raise ValueError(
            f"timestep is {timestep.dtype} {list(timestep.shape)}, expected an integer or integers [{B}], "
            "one for each sample"
        )
    return timestep.to(sample.device, torch.int64).expand(B)


def rows_at(table: Table, timestep: int | Tensor, sample: Tensor, error: Callable[[object], str]) -> Tensor:
    """int64 [B]: the row of each sample's timestep: an int, or integers [B], [1] or [].

    Raises IndexError(error(timestep)) for one that the table has not. On an NVIDIA GPU and in a compiled
    graph, where nothing waits to look, that is an assertion on the device.
    """
    B, device = sample.shape[:1], sample.device
    try:
        if isinstance(timestep, int):
            if not is_compiling():
                return torch.full(B, table.row_of[timestep], device=device)
            timestep = torch.tensor(timestep)
        t = for_each(timestep, sample)
        if readable(t) or t.device.type not in ("cpu", "cuda"):
            rows = [table.row_of[value] for value in t.tolist()]
            return torch.tensor(rows, dtype=torch.int64, device=device)
    except KeyError as missing:
        raise IndexError(error(missing.args[0])) from None
    found = t[:, None] == table.timesteps
    torch._assert_async(found.any(1).all(), error("one of several, unread"))
    return found.int().argmax(1)
