package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// parties, run in a call page, adds peer connections to the call that is there: the same service's relays, and audio.
const parties = `window.parties = {
  all: [],
  async add() {
    const { iceServers } = await (await fetch('/ice', { cache: 'no-store' })).json();
    const pc = new RTCPeerConnection({ iceServers, iceTransportPolicy: 'relay' });
    this.all.push(pc);
    pc.addTrack(window.call.stream.getAudioTracks()[0], window.call.stream);
    return pc;
  },
  async gathered(pc) {
    // What can't be reached is waited for no longer than a while after the first candidate.
    for (let i = 0, found = 0; i < 200 && found < 15 && pc.iceGatheringState !== 'complete'; i++) {
      await new Promise((done) => setTimeout(done, 100));
      if (pc.localDescription.sdp.includes('a=candidate')) found++;
    }
    return pc.localDescription.sdp;
  },
  async offer() {
    const pc = await this.add();
    await pc.setLocalDescription();
    return this.gathered(pc);
  },
  async answer(sdp) {
    const pc = await this.add();
    await pc.setRemoteDescription({ type: 'offer', sdp });
    await pc.setLocalDescription();
    return this.gathered(pc);
  },
  async accept(sdp) { await this.all.at(-1).setRemoteDescription({ type: 'answer', sdp }); return 'yes'; },
  async heard() { // the least that any has received
    let least = Infinity;
    for (const pc of this.all) {
      let n = 0;
      for (const s of (await pc.getStats()).values()) if (s.type === 'inbound-rtp') n += s.packetsReceived;
      least = Math.min(least, n);
    }
    return least;
  },
}, true`

// socketsPerProxy is how many connections Chromium opens to one HTTP/1.1 proxy, over all tabs.
const socketsPerProxy = 32

// TestSixParties is the fullest browser that there is: a call of six, which is five peer connections, the console of the waiting room
// over a WebSocket and once more over long-polls, all through one PAC file, with UDP forbidden by policy.
func TestSixParties(t *testing.T) { longScenario(t, sixParties) }

func sixParties(t *testing.T) {
	l := newLaboratory(t)
	names := map[string]string{gatewayName: gatewayAddr}
	flags := append(wayManaged.flags, pacFlag(l.pacWith(t, wayManaged.entry)))
	ward := l.office("ward", names, wayManaged.rule)
	doctor, others := newBrowser(t, ward, l.ca, flags...), newBrowser(t, l.office("rest", names, wayManaged.rule), l.ca, flags...)
	room := "https://" + plainName + "/r/six?join=1&relay=1&video=small"
	a, b := doctor.open(t, room), others.open(t, room)
	mediaFlows(t, a, b)
	desks := []*tab{
		doctor.open(t, "https://"+plainName+"/console?room=six"),
		doctor.open(t, "https://"+plainName+"/console?room=six&longpoll=1"),
	}
	for _, p := range []*tab{a, b} {
		var ready bool
		must(t, p.eval(parties, &ready))
	}
	most := ward.connections(t, gatewayAddr)
	for range 4 {
		join(t, a, b)
		most = max(most, ward.connections(t, gatewayAddr))
	}
	waitForOr(t, "sound from all parties", callTimeout, func() bool {
		return a.number("window.parties.heard()") > 50 && b.number("window.parties.heard()") > 50
	}, func() string {
		return fmt.Sprint(a.number("window.parties.heard()"), b.number("window.parties.heard()"))
	})
	t.Logf("the doctor's browser holds up to %d connections to the gateway, and %d in the end", most, ward.connections(t, gatewayAddr))
	if most > socketsPerProxy*3/4 {
		t.Errorf("it holds %d of the %d connections that it may have to a proxy: pages and WebSockets would soon wait", most, socketsPerProxy)
	}
	mediaFlows(t, a, b)
	arrivals(t, others, desks)
	began := time.Now()
	if got := desks[0].text(`await (await fetch('/healthz', {cache: 'no-store'})).text()`); !strings.HasPrefix(got, "ok") {
		t.Errorf("beside all that a request is answered %q", got)
	}
	within(t, "a request beside all that", time.Since(began), 2*time.Second)
}

// join brings a further party into the call of a, at b.
func join(t *testing.T, a, b *tab) {
	t.Helper()
	var offer, answer, yes string
	must(t, a.eval("window.parties.offer()", &offer))
	text, err := json.Marshal(offer)
	must(t, err)
	must(t, b.eval("window.parties.answer("+string(text)+")", &answer))
	text, err = json.Marshal(answer)
	must(t, err)
	must(t, a.eval("window.parties.accept("+string(text)+")", &yes))
}

// number evaluates an expression to a number; errors read as -1.
func (p *tab) number(expr string) float64 {
	n := -1.0
	if p.eval(expr, &n) != nil {
		return -1
	}
	return n
}

// connections counts those of a namespace to an address.
func (ns *namespace) connections(t testing.TB, addr string) int {
	t.Helper()
	return strings.Count(ns.run(t, "ss", "-Hnt", "state", "established", "dst", addr), addr+":")
}

// arrivals has a patient come, and checks that each console shows it at once.
func arrivals(t *testing.T, from *browser, desks []*tab) {
	t.Helper()
	from.open(t, "https://"+plainName+"/wait?room=six&name=Ada")
	for i, kind := range []string{"websocket", "longpoll"} {
		late := -1.0
		waitFor(t, "the patient on the console over "+kind, 20*time.Second, func() bool {
			late = desks[i].number(`window.desk.arrivals.length ? window.desk.arrivals[0].shown - Date.parse(window.desk.arrivals[0].since) : -1`)
			return late >= 0
		})
		if got := desks[i].text("window.desk.signaling"); got != kind {
			t.Errorf("the console is open over %q, want %q", got, kind)
		}
		within(t, "the arrival on the console over "+kind, time.Duration(late)*time.Millisecond, time.Second)
	}
}
