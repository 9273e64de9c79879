"""`kshot evaluate`: how well an artifact learns classes that it has never seen."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["EXTRA", "HELP", "configure", "run"]

if TYPE_CHECKING:
    from kshot_models.load import LoadedLearner
    from kshot_models.manifest import NormMode
    from kshot_training.evaluate import Evaluation

HELP = "measure an artifact on episodes of unseen classes"
EXTRA = "training"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("artifact", help="an artifact folder, or a name in the zoo")
    parser.add_argument(
        "--data", default="glyphs", metavar="SOURCE", help="omniglot, mini-imagenet, folder:PATH, glyphs (default)"
    )
    parser.add_argument("--split", default="test", help="which classes (default: test)")
    parser.add_argument(
        "--scheme", help="how the data set is split: vinyals, mixed or lake, of omniglot (default: as for training)"
    )
    parser.add_argument(
        "--rotations",
        action=argparse.BooleanOptionalAction,
        help="count each class four times, turned by quarters (default: of omniglot, as in the papers)",
    )
    parser.add_argument("--way", type=_at_least(2), default=5, metavar="N", help="classes per episode (default: 5)")
    parser.add_argument("--shot", type=_at_least(1), default=1, metavar="K", help="support images a class (default: 1)")
    parser.add_argument("--queries", type=_at_least(1), default=15, metavar="Q", help="of each class (default: 15)")
    parser.add_argument("--episodes", type=_at_least(2), default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--transductive", action="store_true", help="norm moments of the query batch, as in the papers")
    parser.add_argument(
        "--nearest",
        choices=["pixels", "features"],
        help="instead of adapting, answer with the nearest support image, by the artifact's input or its features",
    )
    parser.add_argument(
        "--per-step",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also answer after each inner step (default: yes; takes longer)",
    )
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of the episodes (default: 0)")
    parser.add_argument("--url", help="also send the same episodes to this server, and compare its answers")
    parser.add_argument(
        "--body", choices=["png", "tensor"], default="png", help="how --url sends images (default: png)"
    )
    parser.add_argument("--record", type=Path, metavar="JSON", help="put the figures into this file of results")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the reliability diagram into this file")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="where `kshot data` put the data sets")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of decoded images (default: ~/.cache/kshot)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--threads", type=_at_least(1), metavar="N", help="episodes side by side (default: 1 a core)")


def run(args: argparse.Namespace) -> int:
    """Measure and tell; 0 when done, 2 for a wrong request."""
    from kshot import KshotError
    from kshot_models.errors import ModelError
    from kshot_training.errors import TrainingError

    begun = time.monotonic()
    try:
        loaded = _load(args)
        result = _evaluate(args, loaded)
        served = None if args.url is None else _over_http(args, loaded)
    except (TrainingError, ModelError, KshotError) as error:
        print(f"kshot evaluate: {error}", file=sys.stderr)
        return 2
    if args.plot is not None and result.reliability is not None:
        from kshot_training.curves import reliability_diagram

        title = f"{loaded.manifest.name}, {args.data} {args.way}-way {args.shot}-shot"
        reliability_diagram(result.reliability, args.plot, title=title)
    trained_by = _trained_by(args, loaded)
    if args.scheme is not None and trained_by not in {None, args.scheme}:
        told = f"{loaded.manifest.name} was trained on {args.data} split by {trained_by}: classes of {args.split} by"
        print(f"kshot evaluate: {told} {args.scheme} may be among those that it was trained on", file=sys.stderr)
    report = _report(args, loaded, result) | ({} if served is None else {"over_http": served})
    print(json.dumps(report) if args.json else _text(report))
    if args.record is not None:
        _record(args, report, seconds=time.monotonic() - begun)
    return 0


def _load(args: argparse.Namespace) -> LoadedLearner:
    from kshot_models.load import load
    from kshot_models.registry import build_learner
    from kshot_training.errors import EpisodeError
    from kshot_training.nearest_neighbour import NearestNeighbour, nearest_neighbour_on

    loaded = load(args.artifact, device=args.device)
    if args.nearest is not None and args.url is not None:
        raise EpisodeError("--nearest is no artifact that a server could serve: leave out --url")
    if args.transductive:
        spec = loaded.manifest.learner.model_copy(update={"norm": "transductive"})
        loaded = loaded._replace(learner=build_learner(spec, loaded.manifest.input))
    if args.nearest == "pixels":
        return loaded._replace(learner=NearestNeighbour())
    if args.nearest == "features":
        return loaded._replace(learner=nearest_neighbour_on(loaded.learner, _norm(args, loaded)))
    return loaded


def _norm(args: argparse.Namespace, loaded: LoadedLearner) -> NormMode:
    if args.nearest == "pixels":
        return "none"
    return "transductive" if args.transductive else loaded.manifest.learner.norm


def _evaluate(args: argparse.Namespace, loaded: LoadedLearner) -> Evaluation:
    from kshot_training.build import build_loss
    from kshot_training.evaluate import evaluate
    from kshot_training.process import default_cache, default_threads, prepare_process
    from kshot_training.recipe import DataSection, Setting
    from kshot_training.sampling import Place, setting_episodes

    prepare_process()
    data = DataSection(source=args.data, scheme=_scheme(args, loaded), rotations=_rotations(args))
    setting = Setting(way=args.way, shot=args.shot)
    place = Place(args.data_root, args.cache or default_cache(), args.device)
    samples = setting_episodes(
        data, [setting], loaded.manifest.input, split=args.split, queries=args.queries, seed=args.seed, place=place
    )
    return evaluate(
        loaded.learner,
        loaded.meta_params,
        samples[setting],
        episodes=args.episodes,
        loss=build_loss(loaded.manifest.learner),
        per_step=args.per_step,
        workers=args.threads or default_threads(),
        temperature=loaded.manifest.calibration.temperature,
    )


def _scheme(args: argparse.Namespace, loaded: LoadedLearner) -> str | None:
    """How the data are split: as for training, unless the caller says otherwise; None for the usual way."""
    return args.scheme or _trained_by(args, loaded)


def _trained_by(args: argparse.Namespace, loaded: LoadedLearner) -> str | None:
    """The scheme that the artifact was trained by; None where that was on other data, or on data with one scheme."""
    from kshot_training.data import scheme_of

    trained_on = loaded.manifest.provenance.data
    alike = trained_on.partition(" ")[0].partition(":")[0] == _source_name(args)
    return scheme_of(trained_on) if alike else None


def _rotations(args: argparse.Namespace) -> bool:
    return args.data.partition(":")[0] == "omniglot" if args.rotations is None else bool(args.rotations)


def _over_http(args: argparse.Namespace, loaded: LoadedLearner) -> dict[str, Any]:
    import dataclasses

    from kshot import Client
    from kshot_training.data import EpisodeSampler, load_classes
    from kshot_training.over_http import compare
    from kshot_training.process import default_cache, default_threads

    classes = load_classes(
        args.data,
        spec=loaded.manifest.input,
        split=args.split,
        scheme=_scheme(args, loaded),
        rotations=_rotations(args),
        root=args.data_root,
        cache=args.cache or default_cache(),
    )
    sampler = EpisodeSampler(classes, args.way, args.shot, args.queries, seed=args.seed)
    model = f"{loaded.manifest.name}@{loaded.manifest.version}"
    with Client(args.url) as client:
        agreement = compare(
            loaded,
            sampler,
            client,
            model=model,
            episodes=args.episodes,
            body=args.body,
            workers=args.threads or default_threads(),
        )
    return dataclasses.asdict(agreement) | {"body": args.body}


def _report(args: argparse.Namespace, loaded: LoadedLearner, result: Evaluation) -> dict[str, Any]:
    regression = result.reliability is None
    return {
        "artifact": loaded.manifest.name,
        "version": loaded.manifest.version,
        "digest": loaded.digest,
        "data": args.data,
        "scheme": _scheme(args, loaded),
        "split": args.split,
        "way": args.way,
        "shot": args.shot,
        "queries": args.queries,
        "episodes": result.episodes,
        "norm": _norm(args, loaded),
        "seed": args.seed,
        "accuracy": None if regression else result.accuracy,
        "ci95": None if regression else result.ci95,
        "per_step": list(result.per_step),
        "loss": result.loss,
        "loss_ci95": result.loss_ci95,
        "ece": None if regression else result.ece,
    }


def _record(args: argparse.Namespace, report: dict[str, Any], *, seconds: float) -> None:
    from kshot_training.data import named
    from kshot_training.results import Row, hardware, record

    served = report.get("over_http", {})
    row = Row(
        algorithm=_algorithm(args, report["artifact"]),
        data=f"{named(_source_name(args), report['scheme'])} {report['split']}",
        over_http=served.get("accuracy"),
        same_label=served.get("same_label"),
        hardware=hardware(args.device),
        seconds=round(seconds, 1),
        command=_command(args, report["artifact"]),
        **{name: report[name] for name in ("way", "shot", "norm", "episodes", "accuracy", "ci95", "seed")},
    )
    record(args.record, row)


def _algorithm(args: argparse.Namespace, artifact: str) -> str:
    if args.nearest is None:
        return artifact
    return "nearest neighbour, pixels" if args.nearest == "pixels" else f"nearest neighbour, features of {artifact}"


def _command(args: argparse.Namespace, artifact: str) -> str:
    """What repeats the measurement elsewhere: without the folders of this machine."""
    words = ["kshot evaluate", artifact, f"--data {_source_name(args)}"]
    words += [] if args.scheme is None else [f"--scheme {args.scheme}"]
    for name in ("split", "way", "shot", "queries", "episodes", "seed"):
        words.append(f"--{name} {getattr(args, name)}")
    words += ["--transductive"] if args.transductive else []
    words += [f"--nearest {args.nearest}"] if args.nearest else []
    words += [f"--url http://127.0.0.1:8000 --body {args.body}"] if args.url else []
    return " ".join(words)


def _source_name(args: argparse.Namespace) -> str:
    return str(args.data).partition(":")[0]


def _text(report: dict[str, Any]) -> str:
    lines = [
        "{artifact} {version} on {data} {split}, {way}-way {shot}-shot, {queries} queries a class, {norm} norms".format(
            **report
        )
    ]
    if report["accuracy"] is not None:
        lines.append("accuracy   {accuracy:.2%} ± {ci95:.2%} ({episodes} episodes, 95% interval)".format(**report))
    lines.append("loss       {loss:.4f} ± {loss_ci95:.4f}".format(**report))
    if report["ece"] is not None:
        lines.append("calibration error {ece:.4f}".format(**report))
    if len(report["per_step"]) > 1 and report["accuracy"] is not None:
        lines.append("by step    " + "  ".join(f"{share:.2%}" for share in report["per_step"]))
    if "over_http" in report:
        told = "over HTTP  {accuracy:.2%} ± {ci95:.2%}; the same label on {same_label:.3%} of {queries} queries"
        lines.append(told.format(**report["over_http"]))
    return "\n".join(lines)


def _at_least(least: int) -> Any:
    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return whole
