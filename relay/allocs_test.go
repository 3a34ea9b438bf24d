//go:build !race

package relay

import (
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// Nothing of ours is allocated for a relayed packet, in any direction and on any leg. (crypto/tls allocates 24 bytes for each
// record that it reads, which is not ours.)
func TestNoAllocationsPerPacket(t *testing.T) {
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	sound, picture := rtpSource{ssrc: 1, pt: 111}, rtpSource{ssrc: 2, pt: 96}
	burst := picture.video(8)
	burst = append(burst, sound.audio(), stunFrame(typeDataIndication, stunAttr(0x0013, make([]byte, 100))))
	for _, via := range []string{"tcp", "tls", "udp"} {
		c := h.raw(via)
		c.allocate()
		swallow(t, c.conn)
		var ses *session
		for _, s := range h.table.all(nil) {
			if s.client.Via == via {
				ses = s
			}
		}
		msgs := make([][]byte, len(burst))
		region.mu.Lock() // what the region keeps would count
		send := func() {
			copy(msgs, burst)
			ses.fromRegion(msgs)
			time.Sleep(500 * time.Microsecond) // so that the client keeps up: queueing may allocate
		}
		for range 100 {
			send() // a new path is given little, and the rest queues
		}
		// A crowded machine lets the client fall behind now and then: the best of some tries counts.
		down, up := 1.0, 1.0
		for try := 0; try < 8 && (down > 0 || up > 0); try++ {
			down = testing.AllocsPerRun(300, send)
			up = testing.AllocsPerRun(300, func() { ses.fromClient(burst) })
		}
		region.mu.Unlock()
		if down > 0 || up > 0 {
			t.Errorf("%s: %v allocations down and %v up for %d messages", via, down, up, len(burst))
		}
	}
}

// swallow reads all that comes, beneath TLS: reading that allocates.

func swallow(t *testing.T, conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
}
