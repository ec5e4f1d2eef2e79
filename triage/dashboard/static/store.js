// What the server has said so far: runs, their frames in columns, and their flags as episodes.

const KEEP_FRAMES = 20000;

// A flag from its raising to its clearing; `end` is null while it stands.
function episodeOf(flag) {
  return { ...flag, raisedAt: flag.at, end: null, clearedAt: null, clearedReason: null };
}

class Run {
  constructor(id, started) {
    this.id = id;
    this.started = started;
    this.totals = null;
    this.indexing = null;
    this.progress = null;
    this.finished = null;
    this.columns = { frame: [] };
    this.episodes = []; // oldest first
  }

  get length() {
    return this.columns.frame.length;
  }

  get firstFrame() {
    return this.columns.frame[0] ?? 0;
  }

  get lastFrame() {
    return this.columns.frame[this.length - 1] ?? 0;
  }

  get standing() {
    return this.episodes.filter((episode) => episode.end === null);
  }

  addFrames(frames) {
    for (const [name, values] of Object.entries(frames)) {
      const column = (this.columns[name] ??= []);
      for (const value of values) column.push(value);
      if (column.length > KEEP_FRAMES * 1.25) column.splice(0, column.length - KEEP_FRAMES);
    }
  }

  // Returns the episode that was raised, or null.
  addFlag(flag) {
    if (flag.state === "raised") {
      const episode = episodeOf(flag);
      this.episodes.push(episode);
      return episode;
    }
    const episode =
      this.episodes.findLast((other) => other.id === flag.id) ??
      this.episodes.findLast((other) => other.flag === flag.flag && other.end === null);
    if (episode) Object.assign(episode, { end: flag.frame, clearedAt: flag.at, clearedReason: flag.reason });
    return null;
  }

  // Index of the first frame at or after `frame`.
  indexOf(frame) {
    const frames = this.columns.frame;
    let low = 0;
    let high = frames.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (frames[middle] < frame) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // Columns of the frames in [first, last] and one beyond each end, so that lines run to the edges.
  between(first, last) {
    const from = Math.max(0, this.indexOf(first) - 1);
    const to = Math.min(this.length, this.indexOf(last) + 2);
    return (name) => (this.columns[name] ?? []).slice(from, to);
  }

  // The per-frame threshold of a flag, or null: a serial run's hit rate and a grid's map have none.
  threshold(flag) {
    const flags = this.started.config?.flags ?? {};
    const { kind } = this.started;
    if (flag !== "multi_lattice" && flag !== "non_diffraction") return flags[flag] ?? null;
    if (kind === "grid") return null;
    return (kind === "serial" ? flags.serial?.[flag] : flags[flag]) ?? null;
  }
}

export class Store {
  constructor() {
    this.forget("");
  }

  forget(board) {
    this.board = board;
    this.version = 0;
    this.runs = new Map(); // oldest first
    this.rates = null;
    this.waitingFor = "";
  }

  get newest() {
    return [...this.runs.values()].at(-1) ?? null;
  }

  // Merges a snapshot; returns the runs that began and the flags that were raised in it.
  apply(snapshot) {
    if (snapshot.board !== this.board) this.forget(snapshot.board);
    const news = { began: [], raised: [] };
    for (const part of snapshot.runs) this.applyRun(part, news);
    for (const id of this.runs.keys()) if (!snapshot.kept.includes(id)) this.runs.delete(id);
    this.version = snapshot.version;
    this.rates = snapshot.rates;
    this.waitingFor = snapshot.waiting_for;
    return news;
  }

  applyRun(part, news) {
    if (part.started) {
      this.runs.delete(part.run);
      const begun = new Run(part.run, part.started);
      this.runs.set(part.run, begun);
      news.began.push(begun);
    }
    const run = this.runs.get(part.run);
    if (!run) return;
    for (const name of ["totals", "indexing", "progress", "finished"]) if (part[name]) run[name] = part[name];
    if (part.frames) run.addFrames(part.frames);
    for (const flag of part.flags ?? []) {
      const episode = run.addFlag(flag);
      if (episode) news.raised.push({ run, episode });
    }
  }
}
