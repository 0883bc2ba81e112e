"""What a run writes about itself as JSON, read with every field checked that anything here uses. No torch.

    record = load_record("runs/sst2-apl-seed1")          its run.json
    check_record(record, "results.jsonl: line 3")        a sweep's line, which is one too
    check_reports(reports)                               what metrics.jsonl and a resume file have of its epochs
"""

import math
from pathlib import Path

from minipelt.errors import InputError, short
from minipelt.settings import Run, load_run_json


def load_record(folder: str | Path) -> dict:
    """The record in a run folder's run.json. Raises InputError, naming the field, if it is none."""
    record = load_run_json(folder)
    check_record(record, Path(folder) / "run.json")
    return record


def check_record(record, place: str | Path) -> Run:
    """Raise InputError, naming place and field, unless a JSON value is the record of a run. Returns the Run.

    All but the settings may be missing: a run that has not ended has no results, one from elsewhere nothing else.
    """
    if not isinstance(record, dict):
        raise InputError(f"{place}: {short(record)}; expected the record of a run")
    run = Run.from_dict(record.get("run"), place)
    if "rows" in record:
        check_counts(record["rows"], f"{place}: rows", ("test",))
        if run.k is not None and record["rows"].get("train", run.k) != run.k:
            raise InputError(f"{place}: rows: train is {record['rows']['train']}; expected {short(run.k)}, as k says")
    if "parameters" in record:
        parts = [part for part in run.method.parts if part != "top"]  # of no layer, perhaps: then it counts nothing
        gates = ["gates"] if run.method.gated else []
        check_counts(record["parameters"], f"{place}: parameters", (*parts, *gates, "head", "base"))
    if "fingerprints" in record:
        prints = check_dict(record["fingerprints"], f"{place}: fingerprints", ("base", "train"))
        for name, value in prints.items():
            if not isinstance(value, str | None):
                raise InputError(f"{place}: fingerprints: {name} is {short(value)}; expected letters and digits")
    if "results" in record:
        check_results(record["results"], f"{place}: results", run.spec.metrics[:1])
    return run


def check_results(results, place: str, metrics: tuple[str, ...]) -> None:
    """Raise InputError unless a JSON value is a run's results: scores, these among them; gates, epochs, seconds."""
    check_dict(results, place, ("test", "gates"))
    for split in ("test", "validation"):
        if split in results:
            scores = check_dict(results[split], f"{place}: {split}", metrics)
            for name, score in scores.items():
                check_number(score, f"{place}: {split}: {name}", -1, 1)
    for name, means in check_dict(results["gates"], f"{place}: gates").items():
        if not isinstance(means, list) or not means:
            raise InputError(f"{place}: gates: {name} is {short(means)}; expected a number for each layer")
        for mean in means:
            check_number(mean, f"{place}: gates: {name}", 0, 1)
    if len({len(means) for means in results["gates"].values()}) > 1:
        raise InputError(f"{place}: gates of different numbers of layers; expected as many of each")
    for name in ("best_epoch", "epochs"):
        if name in results:
            check_number(results[name], f"{place}: {name}", 1, whole=True)
    for name in ("train_seconds", "test_seconds", "total_seconds"):
        if name in results:
            check_number(results[name], f"{place}: {name}", 0)


def check_reports(reports, seconds: bool = False) -> None:
    """Raise ValueError unless a JSON value is the epoch reports of a run, as loop.py makes them, from the first on.

    seconds: whether each must tell how long it took.
    """
    if not isinstance(reports, list):
        raise ValueError("expected a list")
    best_score, best_epoch = -math.inf, 0
    for number, report in enumerate(reports, start=1):
        check_dict(report, f"epoch {number}", ("epoch", "loss", "score", "best_score", "best_epoch"))
        for name in ("loss", "train_seconds", "validation_seconds"):
            if name == "loss" or seconds or name in report:
                check_number(report.get(name), f"epoch {number}: {name}", 0)
        for name in ("score", "best_score"):
            check_number(report[name], f"epoch {number}: {name}", -1, 1)
        for name in ("epoch", "best_epoch"):
            check_number(report[name], f"epoch {number}: {name}", 1, whole=True)
        if report["score"] > best_score:
            best_score, best_epoch = report["score"], number
        if (report["epoch"], report["best_score"], report["best_epoch"]) != (number, best_score, best_epoch):
            raise ValueError(f"epoch {number}: its number, or the best one so far, is not what the reports before say")


# ---- small things


def check_dict(value, place: str, names: tuple[str, ...] = ()) -> dict:
    """A JSON object that has these names. Raises InputError for anything else."""
    if not isinstance(value, dict):
        raise InputError(f"{place} is {short(value)}; expected an object")
    for name in names:
        if name not in value:
            raise InputError(f"{place}: no {name}; expected it with {', '.join(names)}")
    return value


def check_counts(value, place: str, names: tuple[str, ...]) -> None:
    """Raise InputError unless a JSON value is an object of whole numbers from 0 on, these names among them."""
    for name, count in check_dict(value, place, names).items():
        check_number(count, f"{place}: {name}", 0, whole=True)


def check_number(value, place: str, least: float = -math.inf, most: float = math.inf, whole: bool = False) -> None:
    """Raise InputError unless a JSON value is a finite number in a range."""
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if is_number and least <= value <= most and abs(value) < 1e300:
        return
    kind = "whole number" if whole else "number"
    wanted = f"from {least:g} to {most:g}" if math.isfinite(most) else f"from {least:g} on"
    raise InputError(f"{place} is {short(value)}; expected a {kind} {wanted}")
