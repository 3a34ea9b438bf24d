// Signaling with the other members of a room, over a WebSocket or, where none opens within three seconds, over
// long-polls.
//
// The member is the same whatever carries it: a secret id made here. Both directions are numbered. The server keeps
// what we have not acknowledged, and we keep what it has not, so that nothing is lost and nothing comes twice when a
// connection breaks, when a middlebox cuts a poll, or between two polls.

const openTimeout = 3000; // for a WebSocket to open
const silence = 70_000; // the server says "tick" every 25 s; after this much silence a WebSocket is dead
const longest = 180; // seconds a poll is held
const batch = 20; // messages sent at once

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function newID() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
}

export class Signal {
  // onmessage gets welcome, joined, left and signal messages; onstate gets "websocket", "longpoll", "none" or "full".
  constructor({ room, role = 'caller', name = '', longPoll = false, onmessage, onstate }) {
    Object.assign(this, { room, role, name, onmessage, onstate });
    this.forced = longPoll;
    this.fallenBack = longPoll;
    this.opened = false; // a WebSocket has worked once
    this.transport = 'none';
    this.wait = longest;
    this.cutAfter = 0; // seconds after which something on the way cuts polls
    this.polls = 0;
    this.reset();
  }

  reset() {
    this.id = newID();
    this.after = 0;
    this.sent = 0;
    this.outbox = [];
  }

  // start runs until close; it never rejects.
  async start() {
    for (let failures = 0; !this.closed; ) {
      const worked = this.fallenBack ? await this.runPolls() : await this.runSocket();
      if (this.closed || this.transport === 'full') return;
      this.become('none');
      failures = worked ? 0 : failures + 1;
      if (failures > 1 || worked) await pause(Math.min(250 * 2 ** failures, 5000) * (0.75 + Math.random() / 2));
    }
  }

  // send delivers data to one member, or to all that we see.
  send(data, to = '') {
    const message = { n: ++this.sent, to, data };
    this.outbox.push(message);
    if (this.transport === 'websocket') this.write({ after: this.after, messages: [message] });
    else this.flush();
  }

  // close says goodbye, also while the page is being left.
  close() {
    if (this.closed) return;
    this.closed = true;
    navigator.sendBeacon(`/signal/leave?room=${encodeURIComponent(this.room)}&id=${this.id}`);
    this.socket?.close();
    this.poll?.abort();
    this.transport = 'none';
  }

  become(transport) {
    if (this.transport === transport || this.closed) return;
    this.transport = transport;
    this.onstate(transport);
  }

  url(path, more = {}) {
    const query = new URLSearchParams({ room: this.room, id: this.id, role: this.role, after: this.after, ...more });
    if (this.name) query.set('name', this.name);
    return `/signal/${path}?${query}`;
  }

  deliver(message) {
    if (message.seq <= this.after) return;
    this.after = message.seq;
    this.onmessage(message);
  }

  // --- WebSocket

  // runSocket resolves when the WebSocket has ended, with whether it had opened.
  runSocket() {
    return new Promise((resolve) => {
      let opened = false;
      let ended = false;
      let heard = Date.now();
      let socket;
      const end = (worked) => {
        if (ended) return;
        ended = true;
        clearInterval(watch);
        clearTimeout(opening);
        socket?.close();
        if (!worked && !this.forced) this.fallenBack = true;
        resolve(worked);
      };
      const opening = setTimeout(() => end(false), openTimeout);
      const watch = setInterval(() => Date.now() - heard > silence && end(true), 10_000);
      try {
        socket = this.socket = new WebSocket(location.origin.replace(/^http/, 'ws') + this.url('ws'));
      } catch {
        end(false);
        return;
      }
      socket.onmessage = (event) => {
        heard = Date.now();
        if (!opened) {
          // Open means that something has come through: some proxies let the handshake pass and nothing after it.
          opened = this.opened = true;
          clearTimeout(opening);
          this.become('websocket');
          this.write({ after: this.after, messages: this.outbox });
        }
        this.readFrame(JSON.parse(event.data));
      };
      socket.onclose = (event) => {
        if (event.code === 4409) this.become('full');
        if (event.code === 4410) this.reset();
        end(opened || event.code === 4410 || event.code === 4409);
      };
    });
  }

  readFrame(frame) {
    if (frame.type === 'tick') this.write({ after: this.after });
    else if (frame.type === 'ack') this.outbox = this.outbox.filter((message) => message.n > frame.n);
    else this.deliver(frame);
  }

  write(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  // --- Long-poll

  // runPolls polls until it is worth trying a WebSocket again, and resolves with whether any poll was answered.
  async runPolls() {
    const began = Date.now();
    for (let failures = 0, worked = false; !this.closed; ) {
      const asked = Date.now();
      try {
        if (!(await this.pollOnce())) return true;
        failures = 0;
        worked = true;
        if (this.opened && !this.forced && Date.now() - began > 60_000) {
          this.fallenBack = false; // WebSockets did work here, so it was an outage: back to them
          return true;
        }
      } catch {
        if (this.closed) return worked;
        const seconds = (Date.now() - asked) / 1000;
        if (seconds > 8 && seconds < this.wait && this.transport === 'longpoll') {
          // Something on the way cuts polls that are held. Ask to be answered a little sooner.
          this.cutAfter = Math.round(seconds);
          this.wait = Math.max(5, Math.floor(seconds * 0.8));
          continue;
        }
        if (++failures > 1) this.become('none');
        if (failures > 3) {
          this.fallenBack = this.forced;
          return worked;
        }
        await pause(300 * failures);
      }
    }
    return true;
  }

  // pollOnce is false when there is nothing more to poll for.
  async pollOnce() {
    this.poll = new AbortController();
    const first = this.transport !== 'longpoll';
    const wait = first ? 0 : this.wait; // the first one only tells whether polls get through
    const timer = setTimeout(() => this.poll.abort(), (wait + 15) * 1000);
    try {
      const answer = await fetch(this.url('poll', { wait }), { signal: this.poll.signal, cache: 'no-store' });
      if (answer.status === 409) {
        this.become('full');
        return false;
      }
      if (answer.status === 410) {
        this.reset();
        return false;
      }
      if (!answer.ok) throw new Error(`poll: ${answer.status}`);
      const { messages } = await answer.json();
      this.polls++;
      this.become('longpoll');
      for (const message of messages) this.deliver(message);
      this.flush();
      return true;
    } finally {
      clearTimeout(timer);
    }
  }

  // flush posts what is in the outbox, one request at a time.
  async flush() {
    if (this.flushing || this.transport !== 'longpoll') return;
    this.flushing = true;
    try {
      while (this.outbox.length > 0 && !this.closed) {
        const messages = this.outbox.slice(0, batch);
        const answer = await fetch(this.url('send'), {
          method: 'POST',
          headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify({ messages }),
        });
        if (!answer.ok) throw new Error(`send: ${answer.status}`);
        this.outbox = this.outbox.filter((message) => message.n > messages.at(-1).n);
      }
    } catch {
      setTimeout(() => this.flush(), 1000);
    } finally {
      this.flushing = false;
    }
  }
}
