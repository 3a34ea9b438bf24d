package netpolicy

import (
	"net"
	"net/netip"
	"testing"
)

// TestSourcePortsInTurn: a UDP source port that was let go is not used again as long as there are others, and one in use is
// passed over.
func TestSourcePortsInTurn(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	d := &Dialer{Policy: &Policy{}}
	loopback := Scope{Private: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	seen := make(map[int]bool)
	for range 300 {
		conn, err := d.DialContext(t.Context(), "udp", server.LocalAddr().String(), loopback)
		if err != nil {
			t.Fatal(err)
		}
		port := conn.LocalAddr().(*net.UDPAddr).Port
		if seen[port] {
			t.Fatalf("port %d again after %d dials", port, len(seen))
		}
		seen[port] = true
		_ = conn.Close()
	}
	d.sources.mu.Lock()
	next := d.sources.next
	d.sources.mu.Unlock()
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{Port: next})
	if err != nil {
		t.Skipf("skipped: port %d is somebody's already: %v", next, err)
	}
	defer func() { _ = taken.Close() }()
	conn, err := d.DialContext(t.Context(), "udp", server.LocalAddr().String(), loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if port := conn.LocalAddr().(*net.UDPAddr).Port; port == next || seen[port] {
		t.Errorf("dialled from port %d, where %d is in use", port, next)
	}
}

// TestPortTurnComesRound: every port of the range once, then the first again.
func TestPortTurnComesRound(t *testing.T) {
	var turn portTurn
	first := turn.take()
	seen := map[int]bool{first: true}
	for range sourcePorts - 1 {
		p := turn.take()
		if p < firstSourcePort || p >= firstSourcePort+sourcePorts || seen[p] {
			t.Fatalf("port %d after %d", p, len(seen))
		}
		seen[p] = true
	}
	if p := turn.take(); p != first {
		t.Errorf("after the whole range comes %d, want %d", p, first)
	}
}
