"""Every configuration file composes; whatever is wrong is refused in one line that names the key and the mend."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import triage.compose
from triage.buffer import Mode
from triage.compose import compose_settings, conf_dir
from triage.flags import FlagsSettings
from triage.refusal import ConfigError
from triage.settings import DemoVerb, FilesSettings, ListenVerb, ReplayVerb, RunVerb, StreamSettings, Strict

VERBS: dict[str, type[Strict]] = {"run": RunVerb, "listen": ListenVerb, "demo": DemoVerb, "replay": ReplayVerb}
REPOSITORY = Path(__file__).resolve().parents[1]


def refusal(verb: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_settings(verb, overrides, VERBS[verb])
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes(verb: str) -> None:
    compose_settings(verb, [], VERBS[verb])


RUN_GROUPS = sorted(
    (group.name, option.stem)
    for group in conf_dir().iterdir()
    if group.is_dir() and group.name in {"source", "model", "flags", "indexing", "sinks", "dashboard", "beamline"}
    for option in group.glob("*.yaml")
    if not (group.name == "flags" and option.stem != "default")  # parts of flags/default
)


@pytest.mark.parametrize(("group", "option"), RUN_GROUPS)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    compose_settings("listen", [f"{group}={option}"], ListenVerb)


def test_every_group_that_the_runtime_uses_has_options() -> None:
    assert {group for group, _ in RUN_GROUPS} == {"source", "model", "flags", "indexing", "sinks", "dashboard", "beamline"}


def test_defaults_are_those_the_documentation_promises() -> None:
    run = compose_settings("run", [], RunVerb)
    listen = compose_settings("listen", [], ListenVerb)
    demo = compose_settings("demo", [], DemoVerb)
    assert (run.mode, listen.mode) == (Mode.COMPLETE, Mode.LIVE)
    assert (run.dashboard.enabled, listen.dashboard.enabled, demo.dashboard.enabled) == (False, True, True)
    assert (demo.dashboard.host, demo.dashboard.port) == ("127.0.0.1", 8080)
    assert isinstance(run.source, FilesSettings)
    assert run.source.group == "series"
    assert isinstance(listen.source, StreamSettings)
    assert listen.source.kind == "dectris_stream2"


def test_thresholds_in_conf_are_the_defaults_of_the_policies() -> None:
    assert compose_settings("run", [], RunVerb).flags.settings() == FlagsSettings()


def test_indexing_is_on_by_default_and_takes_what_it_is_told() -> None:
    for verb in ("run", "listen", "demo"):
        assert compose_settings(verb, [], VERBS[verb]).indexing.engine == "embedded"  # type: ignore[attr-defined]
        assert compose_settings(verb, ["indexing=off"], VERBS[verb]).indexing.engine == "off"  # type: ignore[attr-defined]
    told = [
        "indexing.every=5",
        "indexing.cell=78.1, 78.1,37,90,90,120",
        "indexing.engine=dials",
        "indexing.dials.python=/opt/dials/bin/python",
    ]
    indexing = compose_settings("run", told, RunVerb).indexing
    assert (indexing.every, indexing.engine, indexing.dials.python) == (5, "dials", "/opt/dials/bin/python")
    assert indexing.known_cell == (78.1, 78.1, 37.0, 90.0, 90.0, 120.0)
    assert compose_settings("run", ["indexing=dials"], RunVerb).indexing.timeout_s == 120.0
    assert compose_settings("run", ["indexing.together=5"], RunVerb).indexing.together == 5
    with pytest.raises(ConfigError, match=r"indexing.*together=5: DIALS is given one frame at a time; set indexing\.together=1"):
        compose_settings("run", ["indexing=dials", "indexing.together=5"], RunVerb)


def test_off_is_quoted_in_yaml() -> None:
    assert yaml.safe_load((REPOSITORY / "conf" / "indexing" / "off.yaml").read_text())["engine"] == "off"
    for path in (REPOSITORY / "conf").glob("*.yaml"):
        for entry in yaml.safe_load(path.read_text()).get("defaults", []):
            assert entry == "_self_" or all(isinstance(option, str) for option in entry.values()), path


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("results/{run}.h5", "results/{run}.h5"),
        ("'a b.h5'", "a b.h5"),
        ("a=b,c.h5", "a=b,c.h5"),
        ("/data/x[1]:(2).h5", "/data/x[1]:(2).h5"),
        ("$HOME/${x}.h5", "$HOME/${x}.h5"),
        ("-", "-"),
        ("null", None),
        ("", None),
    ],
)
def test_text_is_taken_as_it_is(override: str, value: str | None) -> None:
    settings = compose_settings("run", [f"sinks.hdf5.path={override}"], RunVerb)
    assert settings.sinks.hdf5.path == value


def test_overrides_reach_their_keys() -> None:
    settings = compose_settings(
        "listen",
        [
            "source=dectris_stream1",
            "source.endpoint=tcp://eiger:9999",
            "source.socket=sub",
            "source.geometry.beam_px=[100.5,200]",
            "source.geometry.distance_mm=150",
            "flags.ice.raise_at=0.9",
            "flags.ice.k=3",
            "mode=complete",
            "dashboard=off",
            "indexing=off",
            "model=/models/my net.onnx",
            "run.kind=grid",
            "sample=small_molecule",
        ],
        ListenVerb,
    )
    assert isinstance(settings.source, StreamSettings)
    assert (settings.source.kind, settings.source.endpoint, settings.source.socket) == ("dectris_stream1", "tcp://eiger:9999", "sub")
    assert settings.source.geometry.beam_px == (100.5, 200.0)
    assert settings.source.geometry.distance_mm == 150
    assert (settings.flags.ice.raise_at, settings.flags.ice.k, settings.flags.decay.k) == (0.9, 3, FlagsSettings().decay.k)
    assert (settings.mode, settings.dashboard.enabled, settings.model.path) == (Mode.COMPLETE, False, "/models/my net.onnx")
    assert settings.run.override == "grid"
    assert settings.sample == "small_molecule"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("flags.ice.raise_at=1.4", "flags.ice.raise_at: 1.4 is out of range, must be <= 1"),
        ("flags.ice.rise_at=1", "flags.ice.rise_at: no such key; did you mean flags.ice.raise_at?"),
        ("flgs.ice.k=2", "flgs.ice.k: no such key; did you mean flags.ice.k?"),
        ("dashbord=off", "dashbord: no such key; did you mean dashboard?"),
        ("+foo=1", "+foo: no such key"),
        ("flags.ice.k=2.5", "flags.ice.k: 2.5 is not accepted, must be a whole number"),
        ("flags.ice.k=0", "flags.ice.k: 0 is out of range, must be >= 1"),
        ("flags.ice.k=12", "flags.ice: k = 12 and n = 10: set 1 <= k <= n"),
        ("flags.ice.clear_at=0.95", "flags.ice: clear_at = 0.95 and raise_at = 0.6"),
        ("flags.ice={k: 2, m: 3}", "flags.ice={k: 2, m: 3}: Key 'm'"),
        ("flags.ice=off", "flags.ice: 'off'"),
        ("flags.ice.raise_at=[", "flags.ice.raise_at: cannot read the value '['"),
        ("mode=fast", "mode: 'fast' is not one of 'live', 'complete'"),
        ("run.kind=movie", "run.kind: 'movie' is not one of 'auto', 'rotation'"),
        ("model.device=tpu", "model.device: 'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("dashboard=maybe", "dashboard: 'maybe' is not one of off, on"),
        ("dashboard.port=99999", "dashboard.port: 99999 is out of range, must be <= 65535"),
        ("dashboard.port=http", "dashboard.port: 'http' is not accepted, must be a whole number"),
        ("source=fils", "source: 'fils' is not one of dectris_stream1, dectris_stream2, files; did you mean files?"),
        ("source.socket=push", "source.socket: 'push' is not one of 'pull', 'sub'"),
        ("source.geometry.distance_mm=-3", "source.geometry.distance_mm: -3 is out of range, must be > 0"),
        ("source.geometry.distance_mm=inf", "source.geometry.distance_mm: inf is not accepted, must be a finite number"),
        ("source.geometry.beam_px=[1]", "source.geometry.beam_px: [1] has the wrong number of values; [slow, fast] is wanted"),
        ("source.geometry.beam_px=[1,2,3]", "source.geometry.beam_px: [1, 2, 3] has the wrong number of values"),
        ("pipeline.judges=0", "pipeline.judges: 0 is out of range, must be >= 1"),
        ("indexing=on", "indexing: 'on' is not one of dials, embedded, off"),
        ("indexing.every=0", "indexing.every: 0 is out of range, must be >= 1"),
        ("indexing.every=2.5", "indexing.every: 2.5 is not accepted, must be a whole number"),
        ("indexing.engine=xds", "indexing.engine: 'xds' is not one of 'off', 'embedded', 'dials'"),
        ("indexing.queue=1", "indexing.queue: 1 is out of range, must be >= 2"),
        ("indexing.timeout_s=0", "indexing.timeout_s: 0 is out of range, must be > 0"),
        ("indexing.processes=0", "indexing.processes: 0 is out of range, must be >= 1"),
        ("indexing.cell=78,78,37", "indexing.cell: '78,78,37' is no unit cell; write a,b,c,alpha,beta,gamma in A and deg"),
        ("indexing.cell=78,78,37,90,90,200", "indexing.cell: '78,78,37,90,90,200' is no unit cell: lengths of 1 to 10,000 A and angles"),
        ("indexing.cell=78,78,37,60,60,130", "indexing.cell: '78,78,37,60,60,130' is no unit cell: lengths of 1 to 10,000 A and angles"),
        ("indexing.dials.pyton=x", "indexing.dials.pyton: no such key; did you mean indexing.dials.python?"),
        ("flags.multi_lattice.evidence=indexing", "flags.multi_lattice.evidence: 'indexing' is not one of 'network', 'fused'"),
        ("flags.cell_outlier.k=30", "flags.cell_outlier: k = 30 and n = 20: set 1 <= k <= n"),
        ("flags.false_alarms_per_1000=2", "flags.false_alarms_per_1000: only null works in this version"),
        ("model.prior.lattices=[1,2,3]", "model.prior.lattices: [1, 2, 3] has the wrong number of values"),
        ("model.prior.lattices=[0,0,0,0]", "model.prior: lattices: all rates are 0"),
        ("model.prior.lattices=[1,-1,0,0]", "model.prior.lattices: -1 is out of range, must be >= 0"),
        ("beamline=i03", "beamline: 'i03' is not one of default"),
        ("=3", "'=3' is not an override: write key=value"),
    ],
)
def test_what_is_wrong_is_refused_by_name(override: str, line: str) -> None:
    assert refusal("listen", override).startswith(line)


def test_values_that_change_nothing_in_this_version_are_accepted() -> None:
    plain = compose_settings("run", [], RunVerb)
    overrides = ["indexing=embedded", "flags.multi_lattice.evidence=network", "flags.false_alarms_per_1000=null", "dashboard='off'"]
    assert compose_settings("run", overrides, RunVerb) == plain


def test_a_beamline_file_overrides_the_defaults_and_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(REPOSITORY / "conf", conf)
    (conf / "beamline" / "i99.yaml").write_text(
        "# @package _global_\nflags: {ice: {raise_at: 0.95}}\nsource: {endpoint: tcp://i99:31001}\n"
    )
    (conf / "beamline" / "bad.yaml").write_text("# @package _global_\nflags: {ice: {raise_at: 95}}\n")
    monkeypatch.setattr(triage.compose, "conf_dir", lambda: conf)
    settings = compose_settings("listen", ["beamline=i99", "flags.ice.k=3"], ListenVerb)
    assert (settings.flags.ice.raise_at, settings.flags.ice.k) == (0.95, 3)
    assert isinstance(settings.source, StreamSettings)
    assert settings.source.endpoint == "tcp://i99:31001"
    assert refusal("listen", "beamline=bad") == "flags.ice.raise_at: 95 is out of range, must be <= 1"
