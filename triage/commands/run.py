"""`triage run`: the pipeline over files."""

from __future__ import annotations

from collections.abc import Sequence

from triage.buffer import Mode
from triage.commands import arguments, session
from triage.commands.overrides import resolver
from triage.compose import compose_settings
from triage.refusal import ConfigError
from triage.settings import FilesSettings, RunVerb
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver

HELP = """\
triage run FILE... [key=value ...]

Judges the frames of files: NeXus/NXmx and Eiger masters, bare HDF5 data files, CBF (.cbf, .cbf.gz, .cbf.bz2), and what else fabio reads.

  triage run scan_master.h5                                    flags as they are raised, then a summary
  triage run frames/*.cbf                                      files of one folder and name template are one run
  triage run frames/*.cbf source.group=file                    each file its own run; a row a file
  triage run scan_master.h5 sinks.jsonl.path=results.jsonl     one record a frame and flag; - is standard output
  triage run scan_master.h5 sinks.hdf5.path='{run}.h5' sinks.good_frames.path='{run}.lst'
  triage run data_000001.h5 source.geometry.distance_mm=200 source.geometry.beam_px=[1031,1055] \\
      source.geometry.wavelength_A=0.9795 source.geometry.pixel_mm=[0.075,0.075]      what the header lacks; pairs are [slow,fast]
  triage run scan_master.h5 flags.multi_lattice.raise_at=0.9 flags.multi_lattice.k=5 flags.multi_lattice.n=6

  source.mask=FILE          pixels not to be used (non-zero)         run.kind=rotation|stills|serial|grid   where the header does not tell
  model=FILE                another network                          model.device=auto|cpu|cuda
  mode=live                 an even sample instead of every frame    dashboard=on     the live page on http://127.0.0.1:8080
  pipeline.judges=N         threads                             indexing=off         no indexing beside the network
  indexing.every=1          every frame that diffracts is indexed, however long it takes (every N-th with N)
  indexing.cell=78,78,37,90,90,90   a known unit cell           indexing=dials       DIALS instead of the embedded indexer

Exit status: 0; 1 when files or frames could not be processed; 2 for a wrong setting.
"""


def run(argv: Sequence[str]) -> int:
    """The verb; gives the exit status."""
    files, overrides = arguments.split(argv)
    for override in overrides:
        if override.startswith("source=") and override != "source=files":
            raise ConfigError(f"{override}: triage run reads files; use triage listen {override}")
    settings = compose_settings("run", overrides, RunVerb)
    paths = arguments.files_of("run", files, settings.source.paths)
    follow = settings.source.follow and settings.mode is Mode.COMPLETE
    source = file_source(settings.source, paths, resolver(settings.source, settings.run.override), follow=follow)
    return session.process(source, settings, session.Show(a_row_a_file=settings.source.group == "file", progress_bar=True))


def file_source(settings: FilesSettings, paths: Sequence[str], runs: RunResolver, *, follow: bool) -> FileSource:
    """The source of these paths."""
    return FileSource(paths, resolver=runs, group=settings.group, follow=follow)
