// The connection: wake-ups over a WebSocket, changes by fetch. A wake-up carries no data, so a lost one costs a second at most.

const POLL_MS = 1000;
const AT_MOST_EVERY_MS = 100;
const RECONNECT_MS = 1000;
const GIVE_UP_MS = 8000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Link {
  constructor(store, { onSnapshot, onState }) {
    this.store = store;
    this.onSnapshot = onSnapshot;
    this.onState = onState;
    this.socketOpen = false;
    this.wake = () => {};
  }

  start() {
    this.listen();
    this.loop();
  }

  listen() {
    const address = new URL("ws", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
    socket.onopen = () => (this.socketOpen = true);
    socket.onmessage = (message) => {
      if (JSON.parse(message.data).version !== this.store.version) this.wake();
    };
    socket.onclose = () => {
      this.socketOpen = false;
      this.wake();
      setTimeout(() => this.listen(), RECONNECT_MS);
    };
  }

  async loop() {
    for (;;) {
      const woken = new Promise((resolve) => (this.wake = resolve));
      await this.pull();
      await sleep(AT_MOST_EVERY_MS);
      await Promise.race([woken, sleep(POLL_MS)]);
    }
  }

  // Fetches until nothing is outstanding.
  async pull() {
    for (let more = true; more; ) {
      const snapshot = await this.changes();
      if (snapshot === null) {
        this.onState("lost");
        return;
      }
      more = snapshot.more;
      this.onSnapshot(snapshot);
    }
    this.onState(this.socketOpen ? "live" : "polling");
  }

  // The next snapshot, or null when the server cannot be reached.
  async changes() {
    const query = new URLSearchParams({ since: this.store.version, board: this.store.board });
    try {
      const answer = await fetch(`api/snapshot?${query}`, { signal: AbortSignal.timeout(GIVE_UP_MS), cache: "no-store" });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }
}
