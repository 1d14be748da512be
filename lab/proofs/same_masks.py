"""Whether two commits learn the same masks, to the last bit: the proof that a refactor changed nothing.

    python lab/proofs/same_masks.py BEFORE AFTER                  # two commits; both are checked out beside each other
    python lab/proofs/same_masks.py BEFORE AFTER --cases demo,ddpm-cifar10

Every case fixes its seed, so what it learns is a function of the code alone, on one machine and one number of threads.
A mask is compared by its actions, gains, scores and timesteps and by the number of denoiser calls that it took. The
seconds and the spelling of the provenance may differ. All cases take about half an hour of one core for each commit;
what a commit has made already is kept in the folder and not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHORT = {
    "rounds": 1,
    "num_moves": 2,
    "gains": 4,
    "num_probes": 4,
    "num_validation": 4,
    "num_held_back": 4,
    "shrink": 0.3,
}
FEW_RUNS = {"num_trajectories": 3, "batch_size": 2}
MODELS = ("ddpm-cifar10", "dit-cifar10", "ldm-cifar10", "pixart-cifar10")


class Stop(Exception):
    """Raised by a callback, in the place of a user's interrupt."""


def load(name: str) -> Any:
    """A reference model, wherever the commit keeps them."""
    try:
        from stepmask import reference
    except ImportError:
        from stepmask_lab import reference
    return reference.load(name)


def guided(name: str) -> dict[str, Any] | None:
    """Call arguments that the results of this model were made with."""
    return None if name == "ddpm-cifar10" else {"guidance_scale": 2.5}


def rule(name: str) -> Callable[..., Any]:
    """A calibrated rule, wherever the commit keeps it."""
    from stepmask import learning

    if hasattr(learning, name):
        return getattr(learning, name)
    from stepmask_lab import rivals

    return getattr(rivals, name)


def default(name: str, **options: Any) -> Any:
    """The default way to learn, in short."""
    import stepmask

    return stepmask.learn(
        load(name), 20, target_macs=0.6, call_kwargs=guided(name), progress=False, **{**SHORT, **options}
    )


def other(method: str, name: str = "ddpm-cifar10", target: float = 0.6, **options: Any) -> Any:
    """Another way to learn, by name."""
    import stepmask

    return stepmask.learn(
        load(name), 10, target_macs=target, method=method, call_kwargs=guided(name), progress=False, **options
    )


def demo(folder: Path) -> Any:
    """Cell by cell at 50 steps, with few images."""
    import stepmask

    quicker = {"shrink": 0.3, "num_moves": 0, "num_held_back": 4, "graph_bytes": 2**31, "rounds": 0, "gains": 18}
    return stepmask.learn(load("ddpm-cifar10"), 50, target_macs=0.5, progress=False, **quicker)


def family(folder: Path) -> Any:
    """The cheapest mask of a family."""
    import stepmask

    found = stepmask.learn_family(load("ddpm-cifar10"), 10, (0.7, 0.5), progress=False, **SHORT)
    return found.at(0.5)


def resumed(method: str | None, after: int, **options: Any) -> Callable[[Path], Any]:
    """Stopped by its callback after some reports, and gone on with from its state."""

    def run(folder: Path) -> Any:
        import stepmask

        state, left = folder / f"{method}.state", [after]

        def stop(report: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Stop

        chosen = {} if method is None else {"method": method}
        pipe = load("ddpm-cifar10")
        arguments = {"target_macs": 0.6, "progress": False, "resume": state, **chosen, **options}
        try:
            stepmask.learn(pipe, 10, callback=stop, **arguments)
        except Stop:
            return stepmask.learn(pipe, 10, **arguments)
        raise SystemExit(f"{method} was not stopped: it reports fewer than {after} times")

    return run


def calibrated(name: str, **options: Any) -> Callable[[Path], Any]:
    """A rule that watches one run."""
    return lambda folder: rule(name)(load("dit-cifar10"), 10, target_macs=0.7, num_images=2, **options)


def scale_shift(folder: Path) -> Any:
    """Corrections of FORA's held values; the numbers of the plan as one array of scores."""
    import stepmask

    pipe = load("ddpm-cifar10")
    plan = rule("fit_scale_shift")(pipe, stepmask.schedules.fora(pipe, 10, 2), num_images=2)
    parts = [affine for key in sorted(plan.corrections) for affine in plan.corrections[key]]
    return plan.mask, np.concatenate([np.concatenate([part.scale.numpy(), part.shift.numpy()]) for part in parts])


def gains_of_a_schedule(folder: Path) -> Any:
    """Gains for FORA."""
    import stepmask

    pipe = load("dit-cifar10")
    schedule = stepmask.schedules.fora(pipe, 10, 2, forecast="linear")
    return stepmask.fit_gains(pipe, schedule, iterations=3)


CASES: dict[str, Callable[[Path], Any]] = {
    **{name: (lambda folder, name=name: default(name)) for name in MODELS},
    "hold-only": lambda folder: default("ddpm-cifar10", forecast=False),
    "family": family,
    "gains-of-a-schedule": gains_of_a_schedule,
    "paper": lambda folder: other("paper", **FEW_RUNS),
    "paper-dit": lambda folder: other("paper", "dit-cifar10", **FEW_RUNS),
    "harmonica": lambda folder: other("harmonica", **FEW_RUNS),
    "l2c": lambda folder: other("l2c", "dit-cifar10", target=0.7, **FEW_RUNS),
    "ecad": lambda folder: other("ecad", population=6, generations=2, num_calibration=2, num_checked=2),
    "dip-go": lambda folder: other("dip-go", iterations=3, chain_images=2),
    "smoothcache": calibrated("smoothcache"),
    "block-caching": calibrated("block_caching"),
    "ditfastattn": lambda folder: rule("ditfastattn")(load("dit-cifar10"), 10, 0.05, num_images=2),
    "scale-shift": scale_shift,
    "resumed": resumed(None, 3, **SHORT),
    "resumed-paper": resumed("paper", 2, **FEW_RUNS),
    "resumed-ecad": resumed("ecad", 2, population=6, generations=2, num_calibration=2, num_checked=2),
    "resumed-dip-go": resumed("dip-go", 2, iterations=3, chain_images=2),
    "demo": demo,
}


def facts(made: Any) -> dict[str, np.ndarray]:
    """What must be the same, as arrays by name."""
    mask, more = made if isinstance(made, tuple) else (made, None)
    found = {
        "actions": mask.actions,
        "timesteps": np.asarray(mask.timesteps),
        "sites": np.array(mask.sites),
        "denoiser_calls": np.array(mask.provenance.get("denoiser_calls", -1)),
    }
    optional = {"gains": mask.gains, "scores": mask.scores, "more": more}
    found |= {name: np.asarray(value) for name, value in optional.items() if value is not None}
    return found | {f"channels.{site}": vector for site, vector in (mask.channel_gains or {}).items()}


def make(names: list[str], folder: Path) -> None:
    """Learn with the stepmask that this process imports."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.npz"
        if not path.exists():
            found = facts(CASES[name](folder))
            np.savez(path.with_suffix(".part.npz"), **found)
            path.with_suffix(".part.npz").rename(path)
        print(f"{path}", flush=True)


def differences(before: Path, after: Path) -> list[str]:
    """Names of what differs between two files of one case."""
    one, two = (dict(np.load(path)) for path in (before, after))
    names = sorted(one.keys() | two.keys())
    return [name for name in names if name not in one or name not in two or not same(one[name], two[name])]


def same(one: np.ndarray, two: np.ndarray) -> bool:
    """To the last bit, NaN included."""
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def checked_out(commit: str, root: Path) -> Path:
    """A work tree of a commit; made once."""
    name = subprocess.run(
        ["git", "rev-parse", "--short", commit], capture_output=True, text=True, check=True
    ).stdout.strip()
    tree = root / name
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), name], check=True)
    return tree


def run_in(tree: Path, names: list[str], folder: Path) -> None:
    """Learn with the code of a work tree, on one thread, with the packages of this environment."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(path) for path in (tree / "src", tree / "lab" / "src") if path.exists()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--make", str(folder), "--cases", ",".join(names)]
    subprocess.run(command, env=environment, check=True)


def main() -> None:
    """Compare two commits, or make the masks of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="Before and after.")
    parser.add_argument("--cases", default=",".join(CASES), help="Of the names in this file, separated by commas.")
    parser.add_argument("--folder", type=Path, default=Path("same-masks"), help="Where masks and work trees are kept.")
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="Learn with the installed stepmask, no comparison.")
    arguments = parser.parse_args()
    names = arguments.cases.split(",")
    if arguments.make is not None:
        return make(names, arguments.make)
    if len(arguments.commits) != 2:
        parser.error("give two commits, before and after")
    folders = []
    for commit in arguments.commits:
        tree = checked_out(commit, arguments.folder.absolute() / "trees")
        folders.append(arguments.folder.absolute() / tree.name)
        run_in(tree, names, folders[-1])
    report = {name: differences(*(folder / f"{name}.npz" for folder in folders)) for name in names}
    for name, differ in report.items():
        print(f"{name:24} {'the same' if not differ else 'differs in ' + ', '.join(differ)}")
    print(json.dumps({"cases": len(report), "same": sum(not differ for differ in report.values())}))
    if any(report.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
