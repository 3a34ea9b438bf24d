package relay

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// Strangers from invented addresses fill every place that there is for them, again and again, and answer no challenge. Who does
// answer gets through all the same.
func TestStrangersMakeRoom(t *testing.T) {
	t.Parallel()
	h := newHouse(t, newTape(t, strict()).urls(), nil)
	var invented []net.Conn
	for i := range maxUnverified + 64 {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(1+i))}}
		conn, err := d.Dial("udp", h.udpAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		invented = append(invented, conn)
	}
	done, flood := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flood)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			_, _ = invented[i%len(invented)].Write(request(stun.MethodAllocate, udpTransport))
			if i > len(invented) {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	h.until("a place for none but the newest", func() bool { return h.metric("hafen_relay_sessions_ended_total", "udp", "err_limit") > 0 })
	for i := range 5 {
		if !h.rawFrom(fmt.Sprintf("127.0.0.%d", 10+i)).begin(time.Now().Add(9 * time.Second)) {
			t.Errorf("client %d has no allocation", i)
		}
	}
	close(done)
	<-flood
}

// Two sockets of one gateway do not answer a stranger more than one would.
func TestBudgetOfAllListeners(t *testing.T) {
	t.Parallel()
	h := newHouse(t, newTape(t, willing(600)).urls(), nil)
	second := listenUDP(t, "0.0.0.0:0")
	h.wg.Go(func() { _ = h.ServePacket(context.Background(), second) })
	answers := 0
	for _, port := range []int{h.udpAddr().Port, second.LocalAddr().(*net.UDPAddr).Port} {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		for range 2 * budgetAnswers {
			_, _ = conn.Write(request(stun.MethodBinding))
		}
		buf := make([]byte, 1500)
		for {
			_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := conn.Read(buf); err != nil {
				break
			}
			answers++
		}
	}
	if answers == 0 || answers > budgetAnswers {
		t.Errorf("%d answers, want %d at most", answers, budgetAnswers)
	}
}
