"""What the paper reports (Mao et al. 2022, BERT-base, official dev set as test), to set beside measured numbers."""

COLUMNS = ("sst2", "mrpc", "cola", "rte", "qnli", "stsb", "mnli", "qqp", "avg")  # the order of the paper's tables

TABLE_1 = {  # (K, method): mean over 5 seeds, a number a column
    (100, "ft"): (79.61, 81.81, 16.56, 55.88, 69.25, 74.07, 42.56, 60.41, 60.02),
    (100, "bitfit"): (62.94, 81.09, 2.71, 47.65, 42.46, 54.53, 38.16, 59.56, 48.64),
    (100, "adapter"): (80.48, 81.40, 2.02, 52.78, 72.25, 77.32, 38.81, 60.88, 58.24),
    (100, "prefix"): (60.87, 81.22, 0.00, 55.96, 71.91, 57.69, 40.58, 15.68, 47.99),
    (100, "lora"): (81.56, 81.66, 13.31, 55.02, 73.52, 49.35, 39.60, 0.09, 49.26),
    (100, "ap"): (77.22, 81.86, 14.42, 55.52, 72.26, 79.14, 42.59, 63.41, 60.80),
    (100, "apl"): (82.36, 81.71, 23.62, 55.45, 73.19, 79.37, 42.30, 62.70, 62.59),
    (500, "ft"): (85.67, 83.34, 36.47, 59.64, 77.30, 84.96, 55.84, 68.23, 68.93),
    (500, "bitfit"): (83.44, 82.16, 3.32, 61.88, 69.15, 76.30, 40.82, 65.29, 60.30),
    (500, "adapter"): (84.54, 82.53, 38.65, 59.35, 77.39, 83.52, 50.04, 68.12, 68.02),
    (500, "prefix"): (83.65, 82.96, 38.16, 63.18, 78.50, 79.75, 58.06, 54.34, 67.32),
    (500, "lora"): (84.98, 82.53, 39.86, 63.03, 79.46, 65.05, 56.54, 55.46, 65.86),
    (500, "ap"): (84.84, 83.25, 39.84, 63.32, 78.36, 84.53, 56.08, 68.14, 69.79),
    (500, "apl"): (84.91, 83.56, 39.81, 64.12, 79.28, 85.26, 54.07, 68.87, 69.98),
    (1000, "ft"): (86.54, 84.87, 43.26, 62.31, 79.03, 86.39, 61.95, 71.09, 71.93),
    (1000, "bitfit"): (83.99, 83.95, 22.44, 62.89, 77.43, 79.04, 52.87, 69.50, 66.51),
    (1000, "adapter"): (85.60, 84.49, 42.33, 61.81, 79.68, 85.52, 57.86, 70.32, 70.95),
    (1000, "prefix"): (85.09, 83.66, 44.07, 66.71, 80.34, 82.38, 63.59, 68.58, 71.81),
    (1000, "lora"): (86.26, 86.04, 45.50, 65.63, 81.00, 81.56, 61.32, 70.89, 72.28),
    (1000, "ap"): (86.17, 85.86, 44.33, 64.91, 80.65, 86.82, 62.17, 69.95, 72.61),
    (1000, "apl"): (87.06, 86.65, 45.44, 65.49, 81.22, 87.10, 62.49, 70.99, 73.31),
}
TABLE_3 = {  # all data, average over the tasks
    "ft": 82.67, "adapter": 83.02, "prefix": 82.07, "lora": 82.20, "ap": 83.12, "ap-nogate": 82.23, "apl": 83.50,
}
TABLE_4 = {  # time relative to fine-tuning, percent: (training, inference)
    "bitfit": (65, 102), "prefix": (56, 114), "lora": (53, 105),
    "adapter": (55, 107), "ap": (55, 118), "apl": (67, 127),
}


def score(k: int | None, method: str, task: str) -> float | None:
    """The paper's mean score for a cell, in percent. None where the paper has none."""
    row = TABLE_1.get((k, method))
    if row is None:
        return None
    return row[COLUMNS.index(task)]


def average(k: int | None, method: str, tasks) -> float | None:
    """The paper's average over `tasks`: the printed one over all eight, else that of its cells.

    None where the paper has none.
    """
    all_tasks = len(tasks) == len(COLUMNS) - 1
    if k is None:
        return TABLE_3.get(method) if all_tasks else None
    if (k, method) not in TABLE_1:
        return None
    if all_tasks:
        return score(k, method, "avg")
    return sum(score(k, method, task) for task in tasks) / len(tasks)


def upper_bound(k: int | None, parts, tasks) -> float | None:
    """The paper's best single submodule of each task, averaged over `tasks`. None where the paper has none."""
    if any((k, part) not in TABLE_1 for part in parts):
        return None
    best = [max(score(k, part, task) for part in parts) for task in tasks]
    return sum(best) / len(best)
