// Which images the charts show: the newest ones (following), or a range somebody chose.

const FEWEST = 40;

export class View {
  constructor() {
    this.following = true;
    this.window = 2000;
    this.range = null;
  }

  followLive() {
    this.following = true;
    this.range = null;
  }

  show(first, last) {
    this.following = false;
    const middle = (first + last) / 2;
    const half = Math.max(FEWEST, last - first) / 2;
    this.range = [middle - half, middle + half];
  }

  all(run) {
    if (this.following) this.window = Infinity;
    else this.show(run.firstFrame, run.lastFrame);
  }

  zoom(factor, run) {
    if (this.following) {
      const held = run.lastFrame - run.firstFrame + 1;
      const shown = factor < 1 ? Math.min(this.window, held) : this.window;
      this.window = Math.max(FEWEST, Math.round(shown * factor));
      return;
    }
    const [first, last] = this.range;
    const middle = (first + last) / 2;
    const half = ((last - first) * factor) / 2;
    this.show(middle - half, middle + half);
  }

  move(fraction, run) {
    const [first, last] = this.bounds(run);
    const step = (last - first) * fraction;
    this.show(first + step, last + step);
  }

  // [first, last] image number on the axis. A short run of known length gets its whole axis at once.
  bounds(run) {
    if (!this.following) return this.range;
    const first = Math.max(run.firstFrame, run.lastFrame - this.window + 1);
    const expected = run.finished ? 0 : run.started.frames_expected ?? 0;
    const last = Math.max(run.lastFrame, Math.min(first + this.window, expected) - 1, first + FEWEST);
    return [first, last];
  }
}
