// The page: what the link brings goes into the store; what the store and the view hold is drawn, once a screen refresh at most.

import { Charts } from "./charts.js";
import { FlagPanel } from "./flags.js";
import { Link } from "./link.js";
import { Store } from "./store.js";
import { drawFacts, drawTiles } from "./tiles.js";
import { View } from "./view.js";
import { drawWitness } from "./witness.js";
import { count, flagTitle } from "./words.js";

const $ = (id) => document.getElementById(id);

const LINK_WORDS = { connecting: "connecting", live: "live", polling: "live, slower", lost: "connection lost" };

class Page {
  constructor() {
    this.store = new Store();
    this.view = new View();
    this.run = null;
    this.selected = null;
    this.scheduled = false;
    this.caughtUp = false;
    this.linkState = "connecting";
    this.lastHeard = null;
    const draw = () => this.schedule();
    this.charts = new Charts($("panels"), {
      onRange: (first, last) => draw(this.view.show(first, last)),
      onFollow: () => this.followLive(),
      onCursor: (frame) => ($("at").textContent = frame === null ? "" : `image ${count(frame)}`),
    });
    this.flags = new FlagPanel({ onPick: (episode) => this.pick(episode) });
    this.link = new Link(this.store, { onSnapshot: (snapshot) => this.take(snapshot), onState: (state) => this.setLink(state) });
    this.setTheme(localStorage.getItem("theme") ?? "dark");
    this.listen();
    this.link.start();
  }

  take(snapshot) {
    const { began, raised } = this.store.apply(snapshot);
    this.lastHeard = new Date();
    if (this.run && this.store.runs.get(this.run.id) !== this.run) this.run = null; // forgotten, or begun anew
    if (began.length || !this.run) this.offer();
    if (this.caughtUp) for (const { run, episode } of raised) if (run === this.run) this.flags.announce(episode);
    if (!snapshot.more) this.caughtUp = true;
    this.setTitle();
    this.schedule();
  }

  // A new run is shown at once, unless somebody is looking back.
  offer() {
    if (!this.run || this.view.following) this.select(this.store.newest);
  }

  select(run) {
    if (run !== this.run) this.selected = null;
    this.run = run;
    this.schedule();
  }

  followLive() {
    this.view.followLive();
    this.selected = null;
    this.select(this.store.newest);
  }

  pick(episode) {
    this.selected = episode;
    const last = episode.end ?? episode.frame;
    const margin = Math.max(60, (last - episode.first_frame) * 0.5);
    this.view.show(episode.first_frame - margin, last + margin);
    this.schedule();
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  draw() {
    const run = this.run;
    $("empty").hidden = run !== null || !this.caughtUp;
    $("live").hidden = run === null;
    $("waiting-for").textContent = this.store.waitingFor;
    this.drawRuns();
    this.drawNotice();
    $("follow").setAttribute("aria-pressed", String(this.view.following));
    if (!run) return;
    if (!this.charts.built) this.charts.rebuild();
    const bounds = this.view.bounds(run);
    drawFacts(run);
    drawTiles(run, this.store.rates);
    drawWitness(run);
    this.flags.draw(run, this.selected);
    this.charts.draw(run, this.selected, bounds);
    const means = this.charts.size > 1 ? `, means of ${count(this.charts.size)} and their range` : "";
    $("span").textContent = `images ${count(Math.max(0, bounds[0]))} to ${count(bounds[1])}${means}`;
  }

  drawRuns() {
    const select = $("run");
    const runs = [...this.store.runs.values()].reverse();
    const names = runs.map((run) => run.id).join("\n");
    if (select.dataset.names !== names) {
      select.dataset.names = names;
      select.replaceChildren(...runs.map((run) => new Option(run.id, run.id)));
      if (!runs.length) select.append(new Option("none yet", ""));
      select.disabled = runs.length === 0;
    }
    if (this.run && select.value !== this.run.id) select.value = this.run.id;
  }

  drawNotice() {
    const notice = $("notice");
    const newest = this.store.newest;
    let text = "";
    if (this.linkState === "lost") {
      text = this.lastHeard
        ? `Connection lost: this is what was known at ${this.lastHeard.toLocaleTimeString("en-GB")}. Trying again.`
        : "The listener cannot be reached. Trying again.";
    } else if (this.run && newest !== this.run) {
      text = `Looking back at ${this.run.id}. The newest run is ${newest.id}: press Follow live to see it.`;
    }
    notice.hidden = text === "";
    if (notice.textContent !== text) notice.textContent = text;
    document.body.classList.toggle("stale", this.linkState === "lost");
  }

  setLink(state) {
    if (state === this.linkState) return;
    this.linkState = state;
    $("link").dataset.state = state;
    $("link").textContent = LINK_WORDS[state];
    this.schedule();
  }

  setTitle() {
    const standing = this.run?.standing ?? [];
    const names = [...new Set(standing.map((episode) => flagTitle(episode.flag)))].join(", ");
    document.title = [names && `⚑ ${names}`, this.run?.id, "triage"].filter(Boolean).join(" · ");
  }

  setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("theme", theme);
    $("theme").textContent = theme === "dark" ? "Light" : "Dark";
    if (this.charts.built) this.charts.rebuild();
    this.schedule();
  }

  change(action) {
    if (this.run) action(this.run);
    this.schedule();
  }

  listen() {
    $("theme").addEventListener("click", () => this.setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
    $("follow").addEventListener("click", () => {
      if (!this.view.following) this.followLive();
      else this.change((run) => this.view.show(...this.view.bounds(run)));
    });
    $("zoom-in").addEventListener("click", () => this.change((run) => this.view.zoom(0.5, run)));
    $("zoom-out").addEventListener("click", () => this.change((run) => this.view.zoom(2, run)));
    $("zoom-all").addEventListener("click", () => this.change((run) => this.view.all(run)));
    $("run").addEventListener("change", (event) => this.lookBack(this.store.runs.get(event.target.value)));
    $("panels").addEventListener("keydown", (event) => this.key(event));
  }

  lookBack(run) {
    if (!run) return;
    if (run === this.store.newest) this.view.followLive();
    else this.view.show(run.firstFrame, run.lastFrame);
    this.select(run);
  }

  key(event) {
    const actions = {
      ArrowLeft: (run) => this.view.move(-0.2, run),
      ArrowRight: (run) => this.view.move(0.2, run),
      "+": (run) => this.view.zoom(0.5, run),
      "-": (run) => this.view.zoom(2, run),
      a: (run) => this.view.all(run),
      l: () => this.followLive(),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.change(action);
  }
}

new Page();
