package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// manyPermissions asks one allocation for permissions for ten thousand peers.
func (r *relayAbuse) manyPermissions(t *testing.T) {
	c := r.allocated(t, relayWays[1])
	before := r.load().memory
	const peers = 10_000
	// So many wait for their answers: of more than the client reads in time some are dropped, as of anything.
	underway := make(chan struct{}, 100)
	go func() {
		for i := range peers {
			select {
			case underway <- struct{}{}:
			case <-t.Context().Done():
				return
			}
			msg := stunMessage(typeCreatePermission)
			peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, 100, byte(i >> 8), byte(i)}), 50000)
			msg = append(msg, xorPeer(peer, msg[8:20])...)
			for _, a := range [][]byte{attr(attrUsername, []byte(c.username)), attr(attrRealm, []byte(c.realm)), attr(attrNonce, []byte(c.nonce))} {
				msg = append(msg, a...)
			}
			if _, err := c.conn.Write(c.sign(msg)); err != nil {
				return
			}
		}
	}()
	codes := make(map[int]int)
	for range peers {
		b, err := c.read(10 * time.Second)
		must(t, err)
		<-underway
		codes[stunCode(b)]++
	}
	grown := (r.load().memory - before) / (1 << 20)
	t.Logf("answers by code %v, memory %+.1f MiB", codes, grown)
	if codes[0] > 64 || codes[0]+codes[508] != peers || grown > 8 {
		t.Errorf("answers by code %v, memory %+.1f MiB; want 64 permissions at most, else 508", codes, grown)
	}
}

// flood sends packets of 1,200 bytes at a rate until ctx ends, and returns how many.
func flood(ctx context.Context, bitsPerSecond float64, send func([]byte) error) (sent int) {
	packet := make([]byte, 1200)
	began := time.Now()
	for ctx.Err() == nil {
		due := int(time.Since(began).Seconds() * bitsPerSecond / 8 / float64(len(packet)))
		for ; sent < due && ctx.Err() == nil; sent++ {
			binary.BigEndian.PutUint32(packet, uint32(sent))
			if err := send(packet); err != nil {
				return sent
			}
		}
		time.Sleep(time.Millisecond)
	}
	return sent
}

// unreadStream: a client stops reading while its peer sends 50 Mbit/s. It pays for it alone: its packets are dropped, others wait no
// longer than before, and in the end it is closed.
func (r *relayAbuse) unreadStream(t *testing.T) {
	w := relayWays[2]
	quiet := r.beside(t, w)
	time.Sleep(2 * time.Second)
	normal, _ := quiet()
	c, peer := r.allocated(t, w), r.peer(t, w)
	if code := c.bind(t, 0x4000, peer.LocalAddr().(*net.UDPAddr).AddrPort()); code != 0 {
		t.Fatalf("bind: %d", code)
	}
	dropped, before := r.metric("hafen_relay_dropped_frames_total"), r.load()
	others := r.beside(t, w)
	most := 3 * time.Second
	if *abuseAll {
		most = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	began := time.Now()
	sent := flood(ctx, 50e6, func(p []byte) error {
		_, err := peer.WriteToUDPAddrPort(p, c.relayed)
		return err
	})
	delays, lost := others()
	now := r.load()
	dropped = r.metric("hafen_relay_dropped_frames_total") - dropped
	p99 := func(d []time.Duration) time.Duration { return d[(len(d)-1)*99/100].Round(100 * time.Microsecond) }
	t.Logf("%d packets in %v, %.0f dropped, memory %+.2f MiB; others: p99 %v (before %v), %d of %d lost",
		sent, most, dropped, (now.memory-before.memory)/(1<<20), p99(delays), p99(normal), lost, len(delays))
	if dropped < float64(sent)/10 { // on a busy machine the kernel and the cloud relay lose most before the gateway can
		t.Errorf("%v of %d packets were counted as dropped", dropped, sent)
	}
	if grown := now.memory - before.memory; grown > 4<<20 {
		t.Errorf("memory %+.2f MiB", grown/(1<<20))
	}
	if lost > 0 || p99(delays) > max(10*p99(normal), 100*time.Millisecond) {
		t.Errorf("others: p99 %v, before %v; %d lost", p99(delays), p99(normal), lost)
	}
	if !*abuseAll {
		return
	}
	// Nothing has been read for so long that the connection is given up.
	goroutines := now.goroutines
	waitFor(t, "the end of what nobody reads", 30*time.Second, func() bool { return r.load().goroutines < goroutines })
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, c.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
	t.Logf("closed within %v", time.Since(began).Round(time.Second))
}

// portChoice draws relay ports, and sees whether each part of the range is as likely as the others (chi-squared, p about 1e-5).
func (r *relayAbuse) portChoice(t *testing.T) {
	draws, bins, most := 640, 16, 50.0
	if *abuseAll {
		draws, bins, most = 10_000, 64, 125.0
	}
	const low, size = 49152, 65536 - 49152
	count := make([]int, bins)
	c := r.client(t, relayWays[1])
	_ = c.conn.SetDeadline(time.Now().Add(5 * time.Minute))
	must(t, c.challenge())
	runs, last := 0, 0
	for range draws {
		code, err := c.allocateSigned()
		must(t, err)
		port := int(c.relayed.Port())
		if code != 0 || port < low {
			t.Fatalf("%d, port %d", code, port)
		}
		if port == last+1 {
			runs++
		}
		last = port
		count[(port-low)*bins/size]++
		c.want(t, "giving it back", c.signed(typeRefresh, attr(attrLifetime, make([]byte, 4))), 0)
	}
	chi, want := 0.0, float64(draws)/float64(bins)
	for _, n := range count {
		chi += math.Pow(float64(n)-want, 2) / want
	}
	t.Logf("%d ports, chi-squared %.1f over %d bins, %d next to the one before", draws, chi, bins, runs)
	if chi > most || runs > 5 {
		t.Errorf("chi-squared %.1f, %d ports follow on the one before: %v", chi, runs, count)
	}
}

// bandwidth: one user sends as fast as the machine does, and gets what the configuration allows; others do not notice.
func (r *relayAbuse) bandwidth(t *testing.T) {
	const allowed = 4e6
	r.again(t, r.cfg[:len(r.cfg)-2]+", max_bandwidth: {per_allocation: 4mbit}}\n")
	w := relayWays[2]
	c, peer := r.allocated(t, w), r.peer(t, w)
	if code := c.bind(t, 0x4000, peer.LocalAddr().(*net.UDPAddr).AddrPort()); code != 0 {
		t.Fatalf("bind: %d", code)
	}
	var arrived atomic.Int64
	go func() {
		buf := make([]byte, 2048)
		for {
			n, err := peer.Read(buf)
			if err != nil {
				return
			}
			arrived.Add(int64(n))
		}
	}()
	others := r.beside(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	began := time.Now()
	sent := flood(ctx, 200e6, func(p []byte) error {
		_, err := c.conn.Write(channelData(0x4000, p))
		return err
	})
	took := time.Since(began).Seconds()
	delays, lost := others()
	rate := float64(arrived.Load()) * 8 / took
	p95 := delays[(len(delays)-1)*95/100]
	t.Logf("sent %.0f Mbit/s, %.2f came through; others: p95 %v, %d of %d lost", float64(sent)*1200*8/took/1e6, rate/1e6, p95.Round(100*time.Microsecond), lost, len(delays))
	if rate > 1.5*allowed || rate == 0 || lost > 0 {
		t.Errorf("%.2f Mbit/s of %.0f allowed came through; %d of others' packets lost", rate/1e6, allowed/1e6, lost)
	}
}
