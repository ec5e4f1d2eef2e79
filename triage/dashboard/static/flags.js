// The list of flags, the banner for critical ones, and what a screen reader is told.

import { clockTime, count, flagTitle, icon, node } from "./words.js";

const SHOWN = 200;

export class FlagPanel {
  constructor({ onPick }) {
    this.list = document.getElementById("flag-list");
    this.none = document.getElementById("no-flags");
    this.total = document.getElementById("flag-count");
    this.banner = document.getElementById("banner");
    this.announcer = document.getElementById("announce");
    this.onPick = onPick;
    this.drawn = "";
    this.bannerDrawn = "";
  }

  draw(run, selected) {
    const state = JSON.stringify([run.id, selected?.id, run.episodes.length, run.episodes.at(-1)?.id, run.standing.map((e) => e.id)]);
    if (state === this.drawn) return;
    this.drawn = state;
    const focused = document.activeElement?.dataset?.id;
    this.list.replaceChildren(...run.episodes.slice(-SHOWN).reverse().map((episode) => this.item(episode, episode === selected)));
    if (focused) this.list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
    this.none.hidden = run.episodes.length > 0;
    this.total.textContent = count(run.episodes.length);
    this.drawBanner(run);
  }

  item(episode, selected) {
    const standing = episode.end === null;
    const head = node(
      "span",
      "flag-head",
      icon(episode.severity),
      node("strong", "", flagTitle(episode.flag)),
      node("span", "severity", episode.severity),
      node("time", "quiet", clockTime(episode.raisedAt)),
    );
    const until = standing ? "still standing" : `cleared at ${count(episode.end)}`;
    const where = node("span", "flag-where", `from image ${count(episode.first_frame)}, raised at ${count(episode.frame)}, ${until}`);
    const button = node("button", `flag ${episode.severity}`, head, node("span", "flag-reason", episode.reason), where);
    button.type = "button";
    button.dataset.id = episode.id;
    button.dataset.standing = String(standing);
    button.setAttribute("aria-current", String(selected));
    button.title = "Show these images in the charts";
    button.addEventListener("click", () => this.onPick(episode));
    return node("li", "", button);
  }

  drawBanner(run) {
    const critical = run.standing.filter((episode) => episode.severity === "critical");
    const state = JSON.stringify([run.id, critical.map((episode) => episode.id)]);
    if (state === this.bannerDrawn) return;
    this.bannerDrawn = state;
    this.banner.hidden = critical.length === 0;
    this.banner.replaceChildren(
      ...critical.map((episode) => {
        const since = node("span", "banner-since", `since image ${count(episode.first_frame)}`);
        return node("div", "", icon("critical"), node("strong", "", flagTitle(episode.flag)), node("span", "", episode.reason), since);
      }),
    );
  }

  announce(episode) {
    this.announcer.textContent = `${episode.severity} flag: ${flagTitle(episode.flag)}. ${episode.reason}`;
  }
}
