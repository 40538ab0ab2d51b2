"""What each verb does with the words after it: they are read here and handed to the rooms, and no more."""

from __future__ import annotations

from pathlib import Path

from graft.errors import GraftError, expected_one_of


def call_train(words: list[str]) -> int:
    """Train what the words ask for: one run, or a sweep."""
    from graft.compose import compose_and_call
    from graft.verbs import train

    return compose_and_call("train", words, train)


def call_pretrain(words: list[str]) -> int:
    """Make a weights bundle."""
    from graft.compose import compose_and_call
    from graft.verbs import pretrain

    if "-m" in words or "--multirun" in words:
        raise GraftError("Expected one source model, but got -m: call `graft pretrain` once for each.")
    return compose_and_call("pretrain", words, pretrain)


def call_compare(words: list[str]) -> int:
    """Compare the runs of experiments and write the report."""
    from graft.answer import compare
    from graft.compare.asked import read_options

    switch = "tracking.register="
    register = f"{switch}true" in words
    asked, rest = read_options([word for word in words if word not in (f"{switch}true", f"{switch}false")])
    names, places = _split_places(rest)
    return compare(names, asked, *places, register=register)


def call_status(words: list[str]) -> int:
    """Show how sweeps stand."""
    from graft.status import read_options, show_status

    asked, rest = read_options(words)
    names, places = _split_places(rest)
    if len(names) > 1:
        raise GraftError(f"Expected one experiment, but got {len(names)}: {', '.join(names)}.")
    return show_status(names[0] if names else None, asked, *places)


def call_check(words: list[str]) -> int:
    """Check a data set."""
    from graft.compose import compose_and_call
    from graft.verbs import check

    if "-m" in words or "--multirun" in words:
        raise GraftError("Expected one data set to check, but got -m: call `graft check` once for each.")
    as_json, codes = "--json" in words, list[int]()
    rest = [word for word in words if word != "--json"]
    compose_and_call("check", rest, lambda config: codes.append(check(config, as_json)))
    return max(codes, default=0)


def call_models(words: list[str]) -> int:
    """List the backbones."""
    from graft.config.models import show_models

    return show_models(words)


def call_extract(words: list[str]) -> int:
    """Write features."""
    from graft.compose import compose_and_call
    from graft.extract import read_extraction
    from graft.verbs import extract

    asked, overrides = read_extraction(words)
    return compose_and_call("extract", overrides, lambda config: extract(config, asked))


def call_predict(words: list[str]) -> int:
    """Label images."""
    from graft.deliver.predict import predict, read_prediction

    asked, places = read_prediction(words)
    _, (root, uri) = _split_places(places)
    return predict(asked, root, uri)


def call_rank(words: list[str]) -> int:
    """Rank backbones."""
    from graft.compose import compose_and_call
    from graft.config.schema import Config
    from graft.rank import rank_backbones, read_ranking

    asked, candidates = read_ranking(words)
    configs = list[Config]()
    for overrides in candidates:
        compose_and_call("extract", overrides, configs.append)
    return rank_backbones(configs, asked)


def call_ui(words: list[str]) -> int:
    """Serve the dashboard."""
    from graft.track.dashboard import serve

    names, (root, uri) = _split_places([word for word in words if not word.startswith("port=")])
    port = next((word.partition("=")[2] for word in words if word.startswith("port=")), "5000")
    if names or not port.isdigit() or not 0 < int(port) < 65536:
        raise GraftError(
            f"Expected nothing but `port=<1 to 65535>`, `paths.root=` and `tracking.uri=`, but got {words}."
        )
    return serve(uri, root, int(port))


def call_cache(words: list[str]) -> int:
    """Show or prune what is kept."""
    from graft.cache import read_options, serve_cache

    return serve_cache(read_options(words))


def _split_places(words: list[str]) -> tuple[list[str], tuple[Path, str | None]]:
    """Take ``paths.root=`` and ``tracking.uri=`` out of ``words``."""
    places = {"paths.root": "./runs", "tracking.uri": ""}
    rest = []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key not in places:
            raise GraftError(expected_one_of("option", key, places))
        if word.startswith("-"):
            raise GraftError(
                f"There is no option {word!r} here. The choices are: `paths.root=` and `tracking.uri=`."
            )
        if sign:
            places[key] = value
        else:
            rest.append(word)
    return rest, (Path(places["paths.root"]).expanduser(), places["tracking.uri"] or None)
