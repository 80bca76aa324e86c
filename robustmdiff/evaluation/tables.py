"""The tables of an evaluation, in Markdown: a column says on whom it rests, a cell if they are too few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from robustmdiff.diagnosis.width import LEVEL
from robustmdiff.evaluation import statistics
from robustmdiff.evaluation.conditions import COMPLETE, MNAR_HALF, Condition, mcar
from robustmdiff.evaluation.forecasts import difference
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import NO_SPREAD, TOO_FEW, Interval
from robustmdiff.evaluation.support import BIN, PEOPLE, SIDE, Support, people_of

NEAR_CHANCE = "not measurable: full AUROC is near chance"
CEILING_NEAR_CHANCE = "not measurable: the ceiling is near chance"
SHOWN_RATES = (0.0, 0.3, 0.5, 0.7)  # of paired differences
CAPTIONS = {
    "retention": "Macro AUROC against the missing rate, with 95 % intervals where there are enough people.",
    "classes": "AUROC of each class with about half of the modalities missing; n counts people.",
    "subsets": "The subsets of modalities that are hardest for the first method.",
    "reliability": f"Stated probability against how often it was right, in bins of {BIN} records or more.",
    "reliability_classes": "The same of each class, with about half of the modalities missing.",
    "coverage": "Prediction sets: coverage and size for each subset of modalities.",
}

Cell = Interval | str | None


class Column(NamedTuple):
    """metric  whose support is that of the column
    of      its cell for a method"""

    metric: str
    of: Callable[[str], Cell]


def to_markdown(results: Results, title: str, notes: Sequence[str] = (), drawn: Sequence[str] = ()) -> str:
    lines = [f"# {title}", "", *[f"- {note}" for note in (*results.notes, *notes)], *_tested(results)]
    for method in filter(results.near_chance, results.methods):
        full = results.interval(method, COMPLETE, "auroc/macro")
        lines.append(f"- No retention of {method}: its AUROC with everything, {full}, may be chance.")
    lines.append("")
    for heading, columns in _tables(results):
        lines += [f"## {heading}", "", *_table(results, columns), ""]
    for method in results.methods:
        lines += [f"## Class by class: {method}", "", *_by_class(results, method), ""]
    for method in results.methods if results.subgroups else ():
        lines += [f"## Group by group: {method}", "", *_by_group(results, method), ""]
    lines += _differences(results) + _sweep(results) + _subsets(results) + _forecasts(results)
    for name, caption in CAPTIONS.items():
        if f"{name}.png" in drawn:
            lines += [f"![{caption}]({name}.png)", "", caption, ""]
    if "reliability.png" not in drawn:
        lines += [f"No reliability curve: no bin of stated probability holds {BIN} records.", ""]
    return "\n".join(lines)


def area(results: Results, method: str, at_least_one: bool = False) -> Cell:
    """The area under retention, or why there is none."""
    return NEAR_CHANCE if results.near_chance(method) else results.area(method, at_least_one)


def _tested(results: Results) -> list[str]:
    """Who was asked about, and for what they are too few."""
    records, people = len(results.masks.ids), results.people
    lines = [
        f"- Tested: {Support(people)}, {records} record{'' if records == 1 else 's'}.",
        f"- Modalities: {', '.join(results.masks.modalities)}.",
    ]
    if results.answers:
        lines.append(f"- Answers: {', '.join(f'{m} by its {by}' for m, by in results.answers.items())}.")
    if results.task.rare:
        lines.append(f"- Rare classes: {', '.join(results.task.rare)}.")
    if results.skipped:
        skipped = ", ".join(results.skipped)
        lines.append(f"- Left out of every mean over classes, as nobody or everybody has them: {skipped}.")
    lines.append(
        f"- In brackets: 95 % bootstrap intervals over people. ({TOO_FEW}): no interval, as it would mean "
        f"nothing with fewer than {PEOPLE} people, or where fewer than {SIDE} have the class, or have it not "
        f"(of a mean: half of its classes or more). ({NO_SPREAD}): every resample gives the same."
    )
    if people < PEOPLE:
        lines.append(f"- {Support(people)}: too few for any interval. Read every number as an anecdote.")
    if few := results.support("auroc/macro").few:
        named = ", ".join(f"{name} ({results.counts[name].smaller_side})" for name in few)
        lines.append(f"- Fewer than {SIDE} people have, or have not: {named}.")
    return lines


def _tables(results: Results) -> list[tuple[str, dict[str, Column]]]:
    def at(condition: Condition, metric: str) -> Column:
        return Column(metric, lambda method: results.interval(method, condition, metric))

    def of_auroc(cell: Callable[[str], Cell]) -> Column:
        return Column("auroc/macro", cell)

    def retained(method: str) -> Cell:
        return NEAR_CHANCE if results.near_chance(method) else results.retained(method, half)

    def share(method: str) -> Cell:
        near_chance = "ceiling" in results.values and results.near_chance("ceiling", half)
        return CEILING_NEAR_CHANCE if near_chance else results.share_of_ceiling(method, half)

    def worst(method: str) -> Cell:
        worst = results.worst_subsets(method)
        return results.interval(method, worst[0], "auroc/macro") if worst else None

    half = results.half
    both = (("complete", COMPLETE), ("half", half))
    calibration = results.task.labels.calibration
    tables = [
        (
            f"Robustness (macro AUROC; half = missing with probability {half.rate:g})",
            {
                "complete": at(COMPLETE, "auroc/macro"),
                "half": at(half, "auroc/macro"),
                "retention at half": of_auroc(retained),
                f"area 0 to {results.masks.rates[-1]:g}": of_auroc(lambda method: area(results, method)),
                "area, one kept": of_auroc(lambda method: area(results, method, at_least_one=True)),
                "share of ceiling at half": of_auroc(share),
                "worst subset": of_auroc(worst),
            },
        ),
        (
            "Rare and common classes",
            {
                f"{what} {group}, {when}": at(condition, f"{metric}/{group}")
                for what, metric in (
                    ("AUROC", "auroc"),
                    ("AUPRC", "auprc"),
                    ("sensitivity", "sensitivity95"),
                    ("coverage", "coverage"),
                )
                for group in ("rare", "common")
                for when, condition in both
            },
        ),
        (
            f"Calibration and prediction sets ({1 - results.alpha:.0%} promised)",
            {
                f"{what}, {when}": at(condition, metric)
                for what, metric in (
                    ("accuracy", "accuracy"),
                    ("Brier", "brier"),
                    ("ECE", calibration),
                    ("coverage", "coverage"),
                    ("set size", "set_size"),
                )
                for when, condition in both
            },
        ),
    ]
    if MNAR_HALF in results.masks.keep:
        columns = {
            "AUROC": "auroc/macro",
            "AUROC rare": "auroc/rare",
            "accuracy": "accuracy",
            "Brier": "brier",
            "ECE": calibration,
            "coverage": "coverage",
            "coverage rare": "coverage/rare",
            "set size": "set_size",
        }
        heading = f"{MNAR_HALF.label.capitalize()} (not at random)"
        tables.append((heading, {name: at(MNAR_HALF, metric) for name, metric in columns.items()}))
    return tables


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]


def _filled(cells: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without the columns that nobody has a number for."""
    return {name: column for name, column in cells.items() if any(column)}


def _cell(value: Cell) -> str:
    return "" if value is None else str(value)


def _table(results: Results, columns: dict[str, Column]) -> list[str]:
    """Methods down, columns across, and under the head on whom a column rests."""
    cells = _filled({name: [_cell(column.of(m)) for m in results.values] for name, column in columns.items()})
    if not cells:
        return ["Nothing here can be measured of these people."]
    rests = ["rests on", *[str(results.support(columns[name].metric)) for name in cells]]
    rows = [[method, *[column[i] for column in cells.values()]] for i, method in enumerate(results.values)]
    return _rows(["", *cells], [rests, *rows])


def _by_class(results: Results, method: str) -> list[str]:
    """Classes down, with the people and records who have each."""
    columns = {
        f"{what}, {when}": [
            _cell(results.interval(method, condition, f"{metric}/{name}")) for name in results.counts
        ]
        for what, metric in (("AUROC", "auroc"), ("AUPRC", "auprc"), ("ECE", "ece"), ("coverage", "coverage"))
        for when, condition in (("complete", COMPLETE), ("half", results.half))
    }
    columns = {
        "people": [f"{count.people} of {count.people_known}" for count in results.counts.values()],
        "records": [f"{count.records} of {count.records_known}" for count in results.counts.values()],
    } | _filled(columns)
    rows = [[name, *[column[c] for column in columns.values()]] for c, name in enumerate(results.counts)]
    return _rows(["", *columns], rows)


def _by_group(results: Results, method: str) -> list[str]:
    """Sites, sexes and ages down, with the people and records in each."""
    columns = {
        f"{what}, {when}": [
            _cell(results.of_group(name, method, condition, metric)) for name in results.subgroups
        ]
        for what, metric in (("ECE", "ece"), ("stated minus true", "in_the_large"), ("coverage", "coverage"))
        for when, condition in results.tabled.items()
    }
    columns = {
        "people": [str(people_of(results.persons, rows)) for rows in results.subgroups.values()],
        "records": [str(rows.sum()) for rows in results.subgroups.values()],
    } | _filled(columns)
    rows = [[name, *[column[i] for column in columns.values()]] for i, name in enumerate(results.subgroups)]
    return [*_rows(["", *columns], rows), "", f"No numbers of groups of fewer than {PEOPLE} people."]


def _differences(results: Results) -> list[str]:
    first, *others = results.methods
    if not others:
        return []
    conditions = [mcar(rate) for rate in results.masks.rates if rate in SHOWN_RATES]
    rows = [
        [
            other,
            metric,
            str(results.support(metric)),
            *[_cell(results.difference(first, other, condition, metric)) for condition in conditions],
        ]
        for other in others
        for metric in ("auroc/macro", "sensitivity95/rare", "accuracy")
    ]
    header = ["minus", "of", "rests on", *[f"missing {condition.rate:g}" for condition in conditions]]
    heading = f"## {first} minus each other method, on the same resamples of people"
    return [heading, "", *_rows(header, [row for row in rows if any(row[3:])]), ""]


def _sweep(results: Results) -> list[str]:
    lines = []
    for one in (False, True):
        rows = []
        for method in results.values:
            curve = results.sweep(method, at_least_one=one)
            if curve.shape[1]:
                rows.append([method, *[f"{value:.3f}" for value in curve[0]]])
        if rows:
            heading = "at least one modality kept" if one else "nothing kept on purpose"
            header = ["missing", *[f"{rate:g}" for rate in results.masks.rates]]
            lines += [f"## Macro AUROC against the missing rate, {heading} ({_macro(results)})", ""]
            lines += [*_rows(header, rows), ""]
    return lines


def _subsets(results: Results) -> list[str]:
    worst = results.worst_subsets(results.methods[0], 10)
    if not worst:
        return []
    rows = [
        [subset.label, *[_cell(results.interval(m, subset, "auroc/macro")) for m in results.values]]
        for subset in worst
    ]
    first = results.methods[0]
    heading = f"## Only these modalities left: macro AUROC ({_macro(results)}), hardest for {first} first"
    return [heading, "", *_rows(["left", *results.values], rows), ""]


def _forecasts(results: Results) -> list[str]:
    """What the model says that seeing the rest would do, beside simple forecasts of the same."""
    if results.forecasts is None:
        return []
    scored = results.forecasts.scores
    (first, own), *others = scored.items()
    heads = {
        "energy": "energy score",
        "coverage": f"intervals of {LEVEL:.0%} that hold",
        "rho": "rank correlation with the move",
        "error": "error of the mean latent",
        "tests": "change in the chosen fifth of tests",
    }
    rows = [[name, *[_cell(each.interval(metric)) for metric in heads]] for name, each in scored.items()]
    order = statistics.interval(results.forecasts.fixed_order)
    rows.append(["a fixed order of tests", *[""] * (len(heads) - 1), _cell(order)])
    lines = ["## What seeing the rest will do", "", *_rows(["", *heads.values()], rows), ""]
    rows = [
        [name, *[f"{energy[0]:.3f}, {held[0]:.0%}" for energy, held in each.by_hidden.values()]]
        for name, each in scored.items()
    ]
    lines += ["Energy score and intervals that hold, by how many modalities are hidden:", ""]
    lines += [*_rows(["", *map(str, own.by_hidden)], rows), ""]
    minus = [f"{name} {_cell(difference(own, each))}" for name, each in others]
    return [
        *lines,
        f"Energy score of {first} minus that of: {'; '.join(minus)}. Below 0 {first} is better.",
        "",
    ]


def _macro(results: Results) -> str:
    return str(results.support("auroc/macro"))
